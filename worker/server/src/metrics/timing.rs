//! How long each phase of a request takes.

use std::time::Instant;

use naru_engine::{Event, FinishReason};

use super::Metrics;

/// When one request reached which phase.
pub(crate) struct Timing {
    admitted: Instant,
    scheduled: Option<Instant>,
    first_token: Option<Instant>,
    /// Of each choice.
    last_token: Vec<Option<Instant>>,
}

impl Timing {
    /// Of a request with `choices` answers, admitted now.
    pub(crate) fn start(choices: usize) -> Self {
        Self {
            admitted: Instant::now(),
            scheduled: None,
            first_token: None,
            last_token: vec![None; choices],
        }
    }

    /// Whether it has not been scheduled yet.
    pub(crate) fn is_queued(&self) -> bool {
        self.scheduled.is_none()
    }

    /// Notes what `event` says about the passing of time.
    pub(crate) fn observe(&mut self, event: &Event, metrics: &Metrics) {
        let now = Instant::now();
        let phases = &metrics.phases;
        let since = |start: Instant| now.duration_since(start).as_secs_f64();
        match event {
            Event::Scheduled { .. } => {
                self.scheduled = Some(now);
                phases.queue.observe(since(self.admitted));
            }
            Event::Output { choice, .. } => {
                if self.first_token.is_none() {
                    self.first_token = Some(now);
                    phases.first_token.observe(since(self.admitted));
                    phases.prefill.observe(since(self.scheduled.unwrap_or(self.admitted)));
                }
                let last = self.last_token.get_mut(*choice as usize);
                if let Some(last) = last.and_then(|last| last.replace(now)) {
                    phases.next_token.observe(since(last));
                    phases.next_token_older.observe(since(last));
                }
            }
            Event::Finished { reason, last, .. } => {
                let reason = match reason {
                    FinishReason::Stop => "stop",
                    FinishReason::Length => "length",
                    FinishReason::Cancelled => "abort",
                };
                for family in [&metrics.successes.naru, &metrics.successes.vllm] {
                    family.with_label_values(&[reason]).inc();
                }
                if *last {
                    phases.whole.observe(since(self.admitted));
                    if let (Some(scheduled), Some(first)) = (self.scheduled, self.first_token) {
                        phases.inference.observe(since(scheduled));
                        phases.decode.observe(since(first));
                    }
                }
            }
            Event::Prompt { .. } | Event::Failed { .. } => {}
        }
    }
}
