//! What a card says when a kernel has read where nothing is. Nothing else can run in the process afterwards.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;

use super::*;

#[test]
#[ignore = "leaves the process without a card; scripts/gpu-check"]
fn a_failed_card_says_so() {
    let gpu = Gpu::open(0).unwrap();
    let mut readback = gpu.readback(4).unwrap();
    let begin = Instant::now();
    let launch = gpu.kernel("gate_operand").grid(1, 1).threads(256).arg(Address(16)).arg(Address(16));
    // SAFETY: none, that is what this is about: the driver ends the kernel, and the process is not used any more.
    unsafe { launch.arg(256_u32).arg(256_u32).run().unwrap() };
    // SAFETY: nothing is copied any more.
    let failed =
        unsafe { gpu.begin_readback(Address(16), 4, &mut readback) }.and_then(|()| gpu.end_readback(&readback));
    assert!(matches!(failed, Err(crate::Error::CardFailed(_))), "{failed:?}");
    assert!(begin.elapsed().as_secs_f32() < 1.0, "it took {:?} to be told", begin.elapsed());
    assert!(Gpu::open(0).is_err(), "a card that has failed was opened again");
}
