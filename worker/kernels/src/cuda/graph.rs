//! Sequences of launches that are queued as one.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::gpu::{Context, failed};
use super::{Gpu, GpuError, Launch};

/// Launches and copies recorded once, to be queued again with the same arguments: what they point
/// to may have changed. The memory they name must outlive it.
#[derive(Debug)]
pub struct Graph {
    context: Arc<Context>,
    executable: sys::CUgraphExec,
}

// SAFETY: one thread at a time uses it.
unsafe impl Send for Graph {}

/// What was recorded, by key. The first time a key comes its launches are run as they are, so that
/// what a kernel needs once is not recorded.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    recorded: HashMap<u64, Option<Graph>>,
}

impl Gpu {
    pub(super) fn run_recorded(
        &mut self,
        key: u64,
        launches: &mut dyn FnMut() -> Vec<Launch>,
    ) -> Result<(), GpuError> {
        let queue = |gpu: &mut Self, launches: &[Launch]| {
            launches.iter().try_for_each(|launch| gpu.launch(launch))
        };
        match self.graphs.recorded.remove(&key) {
            None => {
                queue(self, &launches())?;
                self.graphs.recorded.insert(key, None);
            }
            Some(known) => {
                let graph = match known {
                    Some(graph) => graph,
                    None => {
                        let launches = launches();
                        self.record(|gpu| queue(gpu, &launches))?
                    }
                };
                let replayed = self.replay(&graph);
                self.graphs.recorded.insert(key, Some(graph));
                replayed?;
            }
        }
        Ok(())
    }

    /// Records what `queue` asks of the device, without doing it.
    pub fn record(
        &mut self,
        queue: impl FnOnce(&mut Self) -> Result<(), GpuError>,
    ) -> Result<Graph, GpuError> {
        self.context.enter()?;
        let recording = failed("recording a graph");
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`; the recording always ends.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(&recording)?;
        let queued = queue(self);
        // SAFETY: begun above.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        queued?;
        let graph = graph.map_err(&recording)?;
        // SAFETY: the graph is whole; the executable form has all of it.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable
        };
        let executable = executable.map_err(&recording)?;
        Ok(Graph { context: Arc::clone(&self.context), executable })
    }

    /// Queues what was recorded.
    pub fn replay(&mut self, graph: &Graph) -> Result<(), GpuError> {
        self.context.enter()?;
        // SAFETY: both live; the memory it names is the caller's to keep.
        unsafe { result::graph::launch(graph.executable, self.stream) }
            .map_err(failed("replaying a graph"))
    }

    /// Queues what was recorded, waits for it, and returns how long the device worked on it.
    pub fn seconds_of(&mut self, graph: &Graph) -> Result<f64, GpuError> {
        self.context.enter()?;
        let timing = failed("timing a graph");
        let make = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let (start, end) = (make().map_err(&timing)?, make().map_err(&timing)?);
        // SAFETY: events and stream are ours; the events end here.
        unsafe {
            let timed = result::event::record(start, self.stream)
                .and_then(|()| result::graph::launch(graph.executable, self.stream))
                .and_then(|()| result::event::record(end, self.stream))
                .and_then(|()| result::event::synchronize(end))
                .and_then(|()| result::event::elapsed(start, end));
            let _ = result::event::destroy(start);
            let _ = result::event::destroy(end);
            Ok(f64::from(timed.map_err(timing)?) / 1000.0)
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: instantiated once, by us.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}
