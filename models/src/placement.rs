//! Which device computes which layers of a model.

use std::ops::Range;

use kernels::{CardInfo, Compute};

/// Devices in the order in which a step visits them, each with its layers.
#[derive(Debug, Clone)]
pub struct Placement {
    first: Compute,
    /// The device of so many layers at the end, and of the logits.
    last: Option<(Compute, usize)>,
}

impl Placement {
    /// The last `card_layers` layers and the logits on `card`, what comes before on `host`.
    pub fn split(host: &Compute, card: &Compute, card_layers: usize) -> Self {
        Self { first: host.clone(), last: Some((card.clone(), card_layers)) }
    }

    /// Each device with its layers, of `num_layers`.
    pub(crate) fn stages(&self, num_layers: usize) -> Vec<(&Compute, Range<usize>)> {
        match &self.last {
            None => vec![(&self.first, 0..num_layers)],
            Some((last, layers)) if *layers >= num_layers => vec![(last, 0..num_layers)],
            Some((last, layers)) => {
                vec![(&self.first, 0..num_layers - layers), (last, num_layers - layers..num_layers)]
            }
        }
    }

    /// What the card says of itself, and how many layers it has, if there is one.
    pub fn card(&self) -> Option<(&CardInfo, usize)> {
        match &self.last {
            Some((card, layers)) => card.card().map(|card| (card, *layers)),
            None => self.first.card().map(|card| (card, usize::MAX)),
        }
    }

    /// The device of the logits.
    pub fn last(&self) -> &Compute {
        self.last.as_ref().map_or(&self.first, |(last, _)| last)
    }
}

impl From<&Compute> for Placement {
    /// Everything on one device.
    fn from(compute: &Compute) -> Self {
        Self { first: compute.clone(), last: None }
    }
}
