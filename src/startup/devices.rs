//! Where the model will be computed: what is configured, and what the machine has. Several cards each have all of it.

use std::path::Path;

use kernels::{Activations, CARD_SUPPORT, CardInfo, CardSupport, Compute, ComputeOptions, card_count};
use models::Placement;

use super::machine::Machine;
use crate::config::{DeviceChoice, EngineSettings};

/// The processor, and the cards that are used.
#[derive(Debug)]
pub(super) struct Devices {
    pub host: Compute,
    pub cards: Vec<Card>,
    /// Why there is no card, where one might be expected.
    pub no_card: Option<kernels::Error>,
}

/// An opened card.
#[derive(Debug)]
pub(super) struct Card {
    /// Its number.
    pub ordinal: usize,
    pub info: CardInfo,
    compute: Compute,
}

impl Card {
    fn open(ordinal: usize, options: ComputeOptions) -> kernels::Result<Self> {
        let compute = Compute::cuda(ordinal, options)?;
        let info = compute.card().cloned();
        let info = info.ok_or_else(|| kernels::Error::Card(format!("card {ordinal} says nothing of itself")))?;
        Ok(Self { ordinal, info, compute })
    }
}

impl Devices {
    /// Opens what `settings` ask for.
    ///
    /// # Errors
    /// When they ask for a card that cannot be used.
    pub fn open(settings: &EngineSettings, machine: &Machine) -> kernels::Result<Self> {
        let options = ComputeOptions {
            threads: settings.threads.unwrap_or(machine.processors.threads()),
            isa: settings.isa,
            activations: Activations::default(),
        };
        let host = Compute::cpu(options)?;
        let open = |ordinals: &[usize]| ordinals.iter().map(|&ordinal| Card::open(ordinal, options)).collect();
        let (cards, no_card) = match &settings.device {
            DeviceChoice::Cuda(ordinals) => (open(ordinals)?, None),
            DeviceChoice::CudaAll => {
                // Where there is none, the first one says so.
                let ordinals: Vec<usize> = (0..card_count()?.max(1)).collect();
                (open(&ordinals)?, None)
            }
            DeviceChoice::Auto if may_have_card() => match open(&[0]) {
                Ok(cards) => (cards, None),
                Err(error) => (Vec::new(), Some(error)),
            },
            DeviceChoice::Cpu | DeviceChoice::Auto => (Vec::new(), None),
        };
        Ok(Self { host, cards, no_card })
    }

    /// The card that has the least memory free, which all others plan by.
    pub fn smallest_card(&self) -> Option<&CardInfo> {
        self.cards.iter().map(|card| &card.info).min_by_key(|card| card.free_memory)
    }

    /// So many layers on each card, and the others on the processor: a placement for each copy of the model.
    pub fn placements(&self, card_layers: usize) -> Vec<Placement> {
        if card_layers == 0 || self.cards.is_empty() {
            return vec![(&self.host).into()];
        }
        self.cards.iter().map(|card| Placement::split(&self.host, &card.compute, card_layers)).collect()
    }
}

/// Whether somebody would expect a card to be used: the program was built for them, or there is one.
fn may_have_card() -> bool {
    match CARD_SUPPORT {
        CardSupport::Cuda => true,
        CardSupport::Emulation => false,
        CardSupport::Absent => Path::new("/dev/nvidiactl").exists(),
    }
}
