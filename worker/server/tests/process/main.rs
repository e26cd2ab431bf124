//! The worker as its clients meet it: a process, an address, a real model.

mod answers;
mod connections;
mod control;
mod endings;
mod proven;
mod refusals;
mod simulated;
mod worker;
