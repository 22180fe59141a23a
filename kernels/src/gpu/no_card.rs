//! Why there is no card to compute on, each with what helps.

/// The least compute capability that kernels are compiled for.
pub const LEAST_CAPABILITY: (u32, u32) = (7, 5);
/// The version of CUDA that the driver must bring, and the first driver that brings it.
pub const LEAST_DRIVER_CUDA: (u32, u32) = (13, 0);
/// See [`LEAST_DRIVER_CUDA`].
pub const LEAST_DRIVER: u32 = 580;

/// Why a card cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCard {
    /// The program knows no cards.
    #[error("this program was built without CUDA; take the build for NVIDIA cards")]
    Build,
    /// The driver's library was not found.
    #[error(
        "there is no NVIDIA driver on this machine (libcuda.so.1): install the NVIDIA driver, version {LEAST_DRIVER} or \
         later, or set device = \"cpu\""
    )]
    Driver,
    /// The driver is older than the program.
    #[error(
        "the NVIDIA driver is too old: it brings CUDA {}.{} of at least {}.{}; install driver {LEAST_DRIVER} or later, or \
         set device = \"cpu\"",
        cuda.0, cuda.1, LEAST_DRIVER_CUDA.0, LEAST_DRIVER_CUDA.1
    )]
    OldDriver {
        /// Version of CUDA that it brings.
        cuda: (u32, u32),
    },
    /// The driver fails; its own words.
    #[error("the NVIDIA driver does not start: {0}; nvidia-smi must show the card before it can be used here")]
    DriverFails(String),
    /// There are fewer cards.
    #[error("there is no card {ordinal}: the driver shows {count}, numbered from 0")]
    Number {
        /// The number asked for.
        ordinal: usize,
        /// Cards there are.
        count: usize,
    },
    /// The card is older than the program.
    #[error(
        "card {ordinal} has compute capability {}.{}, kernels are compiled for {}.{} and later; take another card or set \
         device = \"cpu\"",
        capability.0, capability.1, LEAST_CAPABILITY.0, LEAST_CAPABILITY.1
    )]
    OldCard {
        /// Its number.
        ordinal: usize,
        /// What it can do.
        capability: (u32, u32),
    },
}
