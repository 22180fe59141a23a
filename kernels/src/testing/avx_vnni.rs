//! AVX-VNNI for machines without it: a handler of SIGILL that carries out the instructions which that set's kernels
//! have beyond AVX2, `vpdpbusd` and `vpdpwssd ymm, ymm, ymm/m256` in their VEX encoding, on the registers saved in the
//! signal's frame. Source: Intel's Software Developer's Manual, volume 2 (VEX prefix, addressing forms, VPDPBUSD,
//! VPDPWSSD) and chapter 13 of volume 1 (layout of XSAVE).

use std::arch::x86_64::__cpuid_count;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{
    REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RAX, REG_RBP, REG_RBX, REG_RCX, REG_RDI,
    REG_RDX, REG_RIP, REG_RSI, REG_RSP, c_int, c_void, greg_t, siginfo_t, ucontext_t,
};

/// Instructions carried out so far.
pub(crate) static EMULATED: AtomicUsize = AtomicUsize::new(0);

/// Where the frame has bits 128 to 255 of vector registers.
static HIGH_HALVES: AtomicUsize = AtomicUsize::new(0);
/// Where it has bits 256 to 511; 0 without AVX-512.
static HIGH_QUARTERS: AtomicUsize = AtomicUsize::new(0);

/// General registers in the order of their numbers in instructions.
const REGISTERS: [c_int; 16] = [
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12,
    REG_R13, REG_R14, REG_R15,
];

/// Has the process carry out AVX-VNNI itself from now on.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        HIGH_HALVES.store(__cpuid_count(13, 2).ebx as usize, Ordering::Relaxed);
        HIGH_QUARTERS.store(__cpuid_count(13, 6).ebx as usize, Ordering::Relaxed);
        // SAFETY: all zeros are a valid action; the handler has the signature that the flag announces.
        let installed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGILL, &raw const action, ptr::null_mut())
        };
        assert_eq!(installed, 0);
    });
}

extern "C" fn handle(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a handler of this kind the context of its thread, which nothing else touches; what was
    // executed can be read.
    unsafe {
        let machine = &mut (*context.cast::<ucontext_t>()).uc_mcontext;
        let frame = Frame(machine.fpregs.cast());
        match Instruction::decode(machine.gregs[REG_RIP as usize] as *const u8, &machine.gregs) {
            Some(instruction) if frame.is_extended() => {
                instruction.run(frame);
                machine.gregs[REG_RIP as usize] += instruction.len as greg_t;
                EMULATED.fetch_add(1, Ordering::Relaxed);
            }
            // Comes again and ends the process.
            _ => {
                libc::signal(libc::SIGILL, libc::SIG_DFL);
            }
        }
    }
}

/// `vpdpbusd` or `vpdpwssd sums, first, second`.
struct Instruction {
    products: Products,
    sums: usize,
    first: usize,
    second: Operand,
    len: usize,
}

/// What is added to a sum of 32 bits.
#[derive(Clone, Copy)]
enum Products {
    /// Four of unsigned and signed bytes.
    Bytes,
    /// Two of signed 16 bits.
    Words,
}

impl Products {
    fn add(self, sum: i32, first: [u8; 4], second: [u8; 4]) -> i32 {
        let word = |v: [u8; 4], i: usize| i32::from(i16::from_le_bytes([v[2 * i], v[2 * i + 1]]));
        match self {
            Self::Bytes => {
                (0..4).map(|i| i32::from(first[i]) * i32::from(second[i] as i8)).fold(sum, i32::wrapping_add)
            }
            Self::Words => (0..2).map(|i| word(first, i) * word(second, i)).fold(sum, i32::wrapping_add),
        }
    }
}

enum Operand {
    Register(usize),
    Memory(*const [u8; 32]),
}

impl Instruction {
    /// `VEX.256.66.0F38.W0 50 /r` or `52 /r` at `at`, if it is one of them.
    ///
    /// # Safety
    /// A whole instruction is readable at `at`.
    unsafe fn decode(at: *const u8, registers: &[greg_t; 23]) -> Option<Self> {
        // SAFETY: the caller's promise; bytes are read one by one as far as the earlier ones say that there are more.
        unsafe {
            let byte = |i: usize| at.add(i).read();
            let (extensions, source) = (byte(1), byte(2));
            if byte(0) != 0xc4 || extensions & 31 != 2 || source & 0b1000_0111 != 0b101 {
                return None;
            }
            let products = match byte(3) {
                0x50 => Products::Bytes,
                0x52 => Products::Words,
                _ => return None,
            };
            // The fourth bit of a register's number is stored inverted.
            let extension = |bit: u8| usize::from(!extensions >> bit & 1) << 3;
            let (kind, sums, low) = (byte(4) >> 6, usize::from(byte(4) >> 3 & 7), usize::from(byte(4) & 7));
            let (sums, first) = (sums | extension(7), usize::from(!source >> 3 & 15));
            let value = |register: usize| registers[REGISTERS[register] as usize];
            if kind == 3 {
                return Some(Self { products, sums, first, second: Operand::Register(low | extension(5)), len: 5 });
            }
            let (mut len, mut address, mut base) = (5, 0, low);
            if low == 4 {
                let (scale, index) = (byte(5) >> 6, usize::from(byte(5) >> 3 & 7) | extension(6));
                (len, base) = (6, usize::from(byte(5) & 7));
                address = if index == 4 { 0 } else { value(index) << scale };
            }
            let displacement_len = match kind {
                0 if base == 5 => 4,
                0 => 0,
                1 => 1,
                _ => 4,
            };
            let displacement = match displacement_len {
                0 => 0,
                1 => greg_t::from(byte(len) as i8),
                _ => greg_t::from(at.add(len).cast::<i32>().read_unaligned()),
            };
            len += displacement_len;
            address += match (kind, base, low) {
                (0, 5, 4) => 0,
                (0, 5, _) => at as greg_t + len as greg_t,
                _ => value(base | extension(5)),
            };
            let second = Operand::Memory((address + displacement) as *const [u8; 32]);
            Some(Self { products, sums, first, second, len })
        }
    }

    /// # Safety
    /// The frame is extended, and a memory operand is readable.
    unsafe fn run(&self, frame: Frame) {
        // SAFETY: the caller's promise.
        unsafe {
            let first = frame.get(self.first);
            let second = match self.second {
                Operand::Register(register) => frame.get(register),
                Operand::Memory(address) => address.read_unaligned(),
            };
            let mut sums = frame.get(self.sums);
            let factors = first.as_chunks().0.iter().zip(second.as_chunks().0);
            for (sum, (&first, &second)) in sums.as_chunks_mut().0.iter_mut().zip(factors) {
                *sum = self.products.add(i32::from_le_bytes(*sum), first, second).to_le_bytes();
            }
            frame.set(self.sums, &sums);
        }
    }
}

/// The XSAVE area of a signal's frame, in its standard form.
#[derive(Clone, Copy)]
struct Frame(*mut u8);

impl Frame {
    /// The first 16 bytes of vector registers follow the x87 ones.
    const LOW_HALVES: usize = 160;
    /// Which parts of the state are other than initial.
    const PRESENT: usize = 512;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const HIGH_QUARTERS: u64 = 1 << 6;

    /// # Safety
    /// A signal's frame of floating-point state.
    unsafe fn is_extended(self) -> bool {
        // SAFETY: the software's part of the frame, where Linux says so.
        unsafe { self.0.add(464).cast::<u32>().read_unaligned() == 0x4650_5853 }
    }

    /// # Safety
    /// An extended frame.
    unsafe fn present(self) -> *mut u64 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(Self::PRESENT).cast() }
    }

    /// Bits 0 to 255 of a vector register.
    ///
    /// # Safety
    /// An extended frame.
    unsafe fn get(self, register: usize) -> [u8; 32] {
        let mut value = [0; 32];
        // SAFETY: both halves lie in the frame, and 16 registers of each.
        unsafe {
            let (low, high) = value.split_at_mut(16);
            low.as_mut_ptr().copy_from_nonoverlapping(self.0.add(Self::LOW_HALVES + register * 16), 16);
            if self.present().read_unaligned() & Self::AVX != 0 {
                let at = self.0.add(HIGH_HALVES.load(Ordering::Relaxed) + register * 16);
                high.as_mut_ptr().copy_from_nonoverlapping(at, 16);
            }
        }
        value
    }

    /// Sets bits 0 to 255 of a vector register and clears those above.
    ///
    /// # Safety
    /// An extended frame.
    unsafe fn set(self, register: usize, value: &[u8; 32]) {
        // SAFETY: as of `get`; what is above lies in the frame where it says that it is present.
        unsafe {
            let present = self.present().read_unaligned();
            let high_halves = self.0.add(HIGH_HALVES.load(Ordering::Relaxed));
            if present & Self::AVX == 0 {
                high_halves.write_bytes(0, 16 * 16);
            }
            self.0.add(Self::LOW_HALVES + register * 16).copy_from_nonoverlapping(value.as_ptr(), 16);
            high_halves.add(register * 16).copy_from_nonoverlapping(value.as_ptr().add(16), 16);
            self.present().write_unaligned(present | Self::SSE | Self::AVX);
            if present & Self::HIGH_QUARTERS != 0 {
                self.0.add(HIGH_QUARTERS.load(Ordering::Relaxed) + register * 32).write_bytes(0, 32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::arch::asm;
    use std::arch::x86_64::{__m256i, _mm256_dpwssd_avx_epi32, _mm256_set1_epi32};

    use super::{EMULATED, Ordering};
    use crate::Isa;
    use crate::testing::isas_and_emulated;

    #[repr(align(32))]
    struct Aligned([i8; 32]);

    static SIGNED: Aligned = Aligned([
        -128, 127, -1, 1, 0, 5, -5, 100, -100, 64, -64, 33, 2, -2, 77, -77, 127, 127, 127, 127, -128, -128, -128, -128,
        9, 8, 7, 6, -5, -4, -3, -2,
    ]);

    /// What `vpdpbusd` in all its forms adds to sums of 1000: registers below and above 8; memory by a base with
    /// displacements of no, one and four bytes, by a base and an index, by an index alone, and beside the code.
    #[target_feature(enable = "avx2,avxvnni")]
    fn sums_of_every_form(unsigned: &[u8; 32]) -> Vec<[i32; 8]> {
        let mut all = [[1000i32; 8]; 8];
        let base = SIGNED.0.as_ptr();
        for (form, sums) in all.iter_mut().enumerate() {
            // SAFETY: loads and stores whole arrays; every operand comes to `SIGNED`.
            unsafe {
                macro_rules! product {
                    ($sums:literal, $unsigned:literal, $operand:expr $(, $($more:tt)*)?) => {
                        asm!(
                            concat!("vmovdqu ", $unsigned, ", [{unsigned}]"),
                            concat!("vmovdqu ", $sums, ", [{sums}]"),
                            concat!("{{vex}} vpdpbusd ", $sums, ", ", $unsigned, ", ", $operand),
                            concat!("vmovdqu [{sums}], ", $sums),
                            unsigned = in(reg) unsigned.as_ptr(), sums = in(reg) sums.as_mut_ptr(),
                            out("ymm1") _, out("ymm2") _, out("ymm9") _, out("ymm10") _,
                            $($($more)*)?
                        )
                    };
                }
                let signed = std::ptr::read_unaligned(base.cast::<__m256i>());
                match form {
                    0 => product!("ymm1", "ymm2", "ymm3", in("ymm3") signed),
                    1 => product!("ymm9", "ymm10", "ymm11", in("ymm11") signed),
                    2 => product!("ymm9", "ymm2", "[rcx]", in("rcx") base),
                    3 => product!("ymm1", "ymm10", "[r13 + 8]", in("r13") base.wrapping_sub(8)),
                    4 => product!("ymm1", "ymm2", "[r12 - 1024]", in("r12") base.wrapping_add(1024)),
                    5 => product!(
                        "ymm1", "ymm2", "[r9 + 8*r10 - 16]", in("r9") base.wrapping_sub(64), in("r10") 10usize
                    ),
                    6 => product!("ymm9", "ymm10", "[4*rdx + 64]", in("rdx") (base as usize - 64) / 4),
                    _ => product!("ymm1", "ymm2", "[rip + {signed}]", signed = sym SIGNED),
                }
            }
        }
        all.to_vec()
    }

    #[test]
    fn every_form_of_the_instruction_is_carried_out() {
        if !isas_and_emulated().contains(&Isa::AvxVnni) {
            return;
        }
        let mut rng = fastrand::Rng::with_seed(1);
        let unsigned: [u8; 32] = std::array::from_fn(|i| if i < 4 { 255 } else { rng.u8(..) });
        let expected: [i32; 8] = std::array::from_fn(|i| {
            (i * 4..i * 4 + 4).map(|k| i32::from(unsigned[k]) * i32::from(SIGNED.0[k])).sum::<i32>() + 1000
        });
        let before = EMULATED.load(Ordering::Relaxed);
        // SAFETY: the machine has the instruction, or the handler carries it out.
        let sums = unsafe { sums_of_every_form(&unsigned) };
        assert_eq!(sums, vec![expected; 8]);
        assert_eq!(EMULATED.load(Ordering::Relaxed) - before >= 8, !Isa::AvxVnni.is_available());
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn sums_of_words(first: &[u8; 32], second: &[u8; 32]) -> [i32; 8] {
        // SAFETY: loads and stores of whole arrays.
        unsafe {
            let [first, second] = [first, second].map(|v| v.as_ptr().cast::<__m256i>().read_unaligned());
            let sums = _mm256_dpwssd_avx_epi32(_mm256_set1_epi32(i32::MAX), first, second);
            std::mem::transmute(sums)
        }
    }

    #[test]
    fn products_of_words_wrap() {
        if !isas_and_emulated().contains(&Isa::AvxVnni) {
            return;
        }
        let mut rng = fastrand::Rng::with_seed(2);
        let [first, second]: [[u8; 32]; 2] = std::array::from_fn(|_| std::array::from_fn(|_| rng.u8(..)));
        let word = |v: &[u8; 32], i: usize| i32::from(i16::from_le_bytes([v[2 * i], v[2 * i + 1]]));
        let product = |i: usize| word(&first, i) * word(&second, i);
        let expected = std::array::from_fn(|i| i32::MAX.wrapping_add(product(2 * i)).wrapping_add(product(2 * i + 1)));
        // SAFETY: the machine has the instruction, or the handler carries it out.
        assert_eq!(unsafe { sums_of_words(&first, &second) }, expected);
    }
}
