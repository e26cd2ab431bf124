//! The `sim` backend: the real engine on a model that only pretends to compute.
//!
//! The engine says what each step would have cost; this waits that long (`pace`) and keeps the
//! meter (`meter`). `settings` reads the command line, `load` stands in for the loading of weights.

mod load;
mod meter;
mod pace;
mod settings;

pub(crate) use load::load;
pub(crate) use meter::Meter;
pub(crate) use pace::Pace;
pub(crate) use settings::SimSettings;
