//! Sampling on a device, so that rows of logits need not come to the host. On the CPU the engine
//! samples by itself.

pub(crate) mod cuda;
