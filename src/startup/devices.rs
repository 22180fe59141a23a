//! Where the model will be computed: what is configured, and what the machine has.

use std::path::Path;

use kernels::{Activations, CARD_SUPPORT, CardInfo, CardSupport, Compute, ComputeOptions};
use models::Placement;

use super::machine::Machine;
use crate::config::{DeviceChoice, EngineSettings};

/// The processor, and a card if one is used.
#[derive(Debug)]
pub(super) struct Devices {
    pub host: Compute,
    pub card: Option<Compute>,
    /// Why there is no card, where one might be expected.
    pub no_card: Option<String>,
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
        let (card, no_card) = match settings.device {
            DeviceChoice::Cuda(ordinal) => (Some(Compute::cuda(ordinal, options)?), None),
            DeviceChoice::Auto if may_have_card() => match Compute::cuda(0, options) {
                Ok(card) => (Some(card), None),
                Err(error) => (None, Some(error.to_string())),
            },
            DeviceChoice::Cpu | DeviceChoice::Auto => (None, None),
        };
        Ok(Self { host, card, no_card })
    }

    /// What the card says of itself.
    pub fn card_info(&self) -> Option<&CardInfo> {
        self.card.as_ref().and_then(Compute::card)
    }

    /// So many layers on the card, and the others on the processor.
    pub fn placement(&self, card_layers: usize) -> Placement {
        match &self.card {
            Some(card) if card_layers > 0 => Placement::split(&self.host, card, card_layers),
            _ => (&self.host).into(),
        }
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
