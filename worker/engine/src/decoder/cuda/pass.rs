//! What a piece of a step is on a device: segments of launches, and between them values that go
//! over the host.
//!
//! ```text
//! embed   0 attention   0 feed-forward   1 attention   …   end          places
//! ───────▲────────────▲───────────────▲─────────────▲──────────────    segments on tensor ranks
//! ─────────────────────────────────────────────────────────────────    the one without them
//! ```
//!
//! Nothing is asked of the device until a value is needed elsewhere: what was asked for since is
//! one segment, and without other ranks that is the whole step. What lies between segments is
//! copied to the host, summed or sent there, and copied back; devices in a group sum among
//! themselves instead.

use std::mem;
use std::ops::Range;

use naru_kernels::cuda::{Device, DevicePointer};

use super::super::pass::Pass;
use super::super::{Collective, StepError};
use super::plan::StepPlan;
use super::step::DeviceModel;

/// A piece of a step on its way.
pub(super) struct DevicePass<'a> {
    device: &'a mut dyn Device,
    model: &'a DeviceModel,
    plan: &'a StepPlan,
    /// Values of the stream, or of a block's result; rows that are padding stay where they are.
    count: usize,
    /// What has been asked for and not been run.
    places: Range<usize>,
    /// Values on the host.
    values: &'a mut Vec<f32>,
    /// The same, to be summed.
    wide: &'a mut Vec<f64>,
}

impl<'a> DevicePass<'a> {
    /// A piece of `tokens` tokens, whose inputs are on the device.
    pub(super) fn new(
        device: &'a mut dyn Device,
        model: &'a DeviceModel,
        plan: &'a StepPlan,
        tokens: usize,
        (values, wide): (&'a mut Vec<f32>, &'a mut Vec<f64>),
    ) -> Self {
        let count = tokens * model.config.hidden;
        Self { device, model, plan, count, places: 0..0, values, wide }
    }

    /// Runs what has been asked for, up to `end`.
    fn run_to(&mut self, end: usize) -> Result<(), StepError> {
        let places = mem::replace(&mut self.places, end..end).start..end;
        let (mut refused, model, plan) = (None, self.model, self.plan);
        // Tensor ranks stop twice a layer: more graphs than would be worth keeping.
        let key = plan.key().filter(|_| model.tensor_ranks() == 1);
        self.device.run(key, &mut || match model.launches(plan, places.clone()) {
            Ok(launches) => launches,
            Err(error) => {
                refused = Some(error);
                Vec::new()
            }
        })?;
        refused.map_or(Ok(()), Err)
    }

    fn read(&mut self, from: DevicePointer) -> Result<(), StepError> {
        self.values.clear();
        self.values.extend_from_slice(self.device.read_floats(from, self.count)?);
        Ok(())
    }

    fn sum(&mut self, at: DevicePointer, collective: &mut dyn Collective) -> Result<(), StepError> {
        self.run_to(self.places.end)?;
        if self.device.sum_over_group(at, self.count)? {
            return Ok(());
        }
        self.read(at)?;
        collective.all_reduce_floats(self.values, self.wide)?;
        Ok(self.device.upload_floats(at, self.values)?)
    }
}

impl Pass for DevicePass<'_> {
    fn embed(&mut self) -> Result<(), StepError> {
        self.places = DeviceModel::EMBED..DeviceModel::EMBED + 1;
        Ok(())
    }

    fn sum_stream(&mut self, collective: &mut dyn Collective) -> Result<(), StepError> {
        self.sum(self.model.buffers.stream, collective)
    }

    fn receive_stream(
        &mut self,
        from: usize,
        collective: &mut dyn Collective,
    ) -> Result<(), StepError> {
        self.values.resize(self.count, 0.0);
        collective.receive(from, self.values)?;
        self.device.upload_floats(self.model.buffers.stream, self.values)?;
        self.places = DeviceModel::EMBED + 1..DeviceModel::EMBED + 1;
        Ok(())
    }

    fn block(&mut self, block: usize) -> Result<(), StepError> {
        self.places.end = DeviceModel::place(block) + 1;
        Ok(())
    }

    fn sum_block(&mut self, collective: &mut dyn Collective) -> Result<(), StepError> {
        self.sum(self.model.buffers.partial, collective)
    }

    /// The launches of the next place begin with it.
    fn add_block(&mut self, _block: usize) -> Result<(), StepError> {
        Ok(())
    }

    fn logits(&mut self) -> Result<(), StepError> {
        self.run_to(self.model.end() + 1)
    }

    fn send_stream(&mut self, to: usize, collective: &mut dyn Collective) -> Result<(), StepError> {
        self.run_to(self.model.end() + 1)?;
        self.read(self.model.buffers.stream)?;
        Ok(collective.send(to, self.values)?)
    }
}
