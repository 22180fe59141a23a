//! The scheduler under a mock executor and a simulated clock.

mod floors;
mod overlap;
mod rules;
mod simulation;
mod speculation;
mod storm;
mod take_over;
