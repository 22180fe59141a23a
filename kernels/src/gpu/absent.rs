//! A build without CUDA: there is no such thing as a card.

use candle_core::{Device, Tensor};

use super::launch::{Address, Arguments, LaunchShape};
use super::{CardInfo, KernelTime, NoCard};
use crate::Result;

/// Nothing.
#[derive(Debug)]
pub(crate) enum Backend {}

/// Nothing that could be recorded.
#[derive(Debug)]
pub(crate) enum Recording {}

/// Nothing that could come back.
#[derive(Debug)]
pub(crate) enum Readback {}

impl Backend {
    pub fn count() -> Result<usize> {
        refuse()
    }

    pub fn open(_: usize) -> Result<(Self, Device)> {
        refuse()
    }

    pub fn info(&self) -> Result<CardInfo> {
        match *self {}
    }

    pub fn address(&self, _: &Tensor) -> Result<Address> {
        match *self {}
    }

    pub unsafe fn upload(&self, _: &[u8], _: Address) -> Result<()> {
        match *self {}
    }

    pub fn readback(&self, _: usize) -> Result<Readback> {
        match *self {}
    }

    pub unsafe fn begin_readback(&self, _: Address, _: usize, _: &mut Readback) -> Result<()> {
        match *self {}
    }

    pub fn end_readback<'a>(&self, _: &'a Readback) -> Result<&'a [u8]> {
        match *self {}
    }

    pub unsafe fn launch(&self, _: &'static str, _: LaunchShape, arguments: &mut Arguments) -> Result<()> {
        arguments.with_pointers(|_| match *self {})
    }

    pub fn begin_profile(&self) -> Result<()> {
        match *self {}
    }

    pub fn end_profile(&self) -> Result<Vec<KernelTime>> {
        match *self {}
    }

    pub fn is_profiling(&self) -> bool {
        match *self {}
    }

    pub fn begin_recording(&self) -> Result<()> {
        match *self {}
    }

    pub fn end_recording(&self) -> Result<Recording> {
        match *self {}
    }

    pub fn replay(&self, _: &Recording) -> Result<()> {
        match *self {}
    }
}

fn refuse<T>() -> Result<T> {
    Err(NoCard::Build.into())
}
