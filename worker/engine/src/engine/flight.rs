//! The requests in flight: from admission to their last event. Everything of the engine but the
//! model.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::event::{Event, TokenOutput, Usage};
use crate::kv::Prefix;
use crate::request::{Refusal, Request, RequestId, WAITING_CHOICES_MAX};
use crate::sampling::{
    Draw, NextToken, RowSampling, SampledRow, SamplingError, Wanted, check_logprobs,
};
use crate::schedule::{Scheduler, Sequence, SequenceId, Step};
use crate::stop::StopStrings;

use super::choice::{Choice, End, stop_tokens};
use super::{EngineStats, PrefixCache, Vocabulary};

/// What admission checks requests against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) context_tokens: usize,
    pub(super) vocab_size: usize,
    pub(super) prefix_cache: PrefixCache,
}

/// Why requests could not be answered.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) words: Arc<str>,
    /// The replica is at fault, not the requests.
    pub(super) elsewhere: bool,
}

/// Every request that is not over, and the events not yet told.
pub(super) struct Flight {
    vocabulary: Arc<dyn Vocabulary>,
    limits: Limits,
    pub(super) scheduler: Scheduler,
    requests: BTreeMap<u64, InFlight>,
    arrivals: HashMap<RequestId, u64>,
    arrival_next: u64,
    pub(super) events: Vec<Event>,
    pub(super) stats: EngineStats,
}

/// One request with its unfinished choices.
struct InFlight {
    request: Request,
    choices: BTreeMap<u32, Choice>,
    stop_tokens: Vec<u32>,
    /// Set when it was first scheduled.
    cached_tokens: Option<usize>,
    /// Of the prompt's tokens from the second on; None when not asked for, or told already.
    prompt_logprobs: Option<Vec<TokenOutput>>,
}

impl InFlight {
    fn usage(&self, completion_tokens: usize) -> Usage {
        let cached_tokens = self.cached_tokens.unwrap_or(0);
        Usage { prompt_tokens: self.request.prompt.len(), cached_tokens, completion_tokens }
    }
}

impl Flight {
    pub(super) fn new(
        vocabulary: Arc<dyn Vocabulary>,
        scheduler: Scheduler,
        limits: Limits,
    ) -> Self {
        Self {
            vocabulary,
            limits,
            scheduler,
            requests: BTreeMap::new(),
            arrivals: HashMap::new(),
            arrival_next: 0,
            events: Vec::new(),
            stats: EngineStats::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.events.is_empty()
    }

    /// Checks a request and queues its choices.
    pub(super) fn admit(&mut self, request: Request) -> Result<(), Refusal> {
        self.check(&request)?;
        let arrival = self.arrival_next;
        self.arrival_next += 1;
        let root = match self.limits.prefix_cache {
            PrefixCache::Tenant => Prefix::Tenant(request.tenant_salt),
            PrefixCache::Off => Prefix::Request(arrival),
        };
        let strings = Arc::new(StopStrings::new(&request.stop));
        let mut choices = BTreeMap::new();
        for choice in 0..request.sampling.n {
            let wants_prompt_rows = choice == 0 && request.prompt_logprobs.is_some();
            let sequence = match wants_prompt_rows {
                true => Sequence::with_prompt_rows(&request.prompt, root),
                false => Sequence::new(&request.prompt, root),
            };
            self.scheduler.admit(SequenceId { request: arrival, choice }, sequence);
            choices.insert(choice, Choice::new(&request, strings.clone()));
        }
        self.arrivals.insert(request.id, arrival);
        let stop_tokens = stop_tokens(&request, &*self.vocabulary);
        let prompt_logprobs = request.prompt_logprobs.map(|_| Vec::new());
        let in_flight =
            InFlight { request, choices, stop_tokens, cached_tokens: None, prompt_logprobs };
        self.requests.insert(arrival, in_flight);
        Ok(())
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        if self.arrivals.contains_key(&request.id) {
            return Err(Refusal::DuplicateId(request.id));
        }
        let prompt_tokens = request.prompt.len();
        if prompt_tokens == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        let vocab_size = self.limits.vocab_size;
        request.sampling.check(vocab_size).map_err(Refusal::Sampling)?;
        check_logprobs("logprobs", request.logprobs).map_err(Refusal::Sampling)?;
        check_logprobs("prompt_logprobs", request.prompt_logprobs).map_err(Refusal::Sampling)?;
        let max_tokens = request.limits.max_tokens.unwrap_or(1);
        let min_tokens = request.limits.min_tokens;
        if request.limits.max_tokens.is_some_and(|max_tokens| max_tokens < min_tokens) {
            let reason = format!("must be at most max_tokens ({max_tokens}), was {min_tokens}");
            return Err(Refusal::Sampling(SamplingError { param: "min_tokens", reason }));
        }
        let context_tokens = self.limits.context_tokens;
        if prompt_tokens.saturating_add(max_tokens) > context_tokens {
            return Err(Refusal::ContextOverflow { prompt_tokens, max_tokens, context_tokens });
        }
        if let Some(&token) = request.prompt.iter().find(|id| **id as usize >= vocab_size) {
            return Err(Refusal::TokenOutsideVocabulary { token, vocab_size });
        }
        let waiting = self.scheduler.waiting();
        if waiting + request.sampling.n as usize > WAITING_CHOICES_MAX {
            return Err(Refusal::QueueFull { waiting });
        }
        Ok(())
    }

    /// Ends every choice of a request that is still in flight.
    pub(super) fn cancel(&mut self, id: RequestId) {
        let Some(&arrival) = self.arrivals.get(&id) else { return };
        let choices = self.requests.get(&arrival).map(|request| request.choices.keys().copied());
        for choice in choices.into_iter().flatten().collect::<Vec<_>>() {
            self.finish(SequenceId { request: arrival, choice }, End::CANCELLED);
        }
    }

    /// Tells who is scheduled for the first time.
    pub(super) fn record_admissions(&mut self, step: &Step) {
        for admitted in &step.admitted {
            let Some(in_flight) = self.requests.get_mut(&admitted.sequence.request) else {
                continue;
            };
            if in_flight.cached_tokens.is_some() {
                continue;
            }
            let cached_tokens = admitted.cached_tokens;
            in_flight.cached_tokens = Some(cached_tokens);
            let prompt_tokens = in_flight.request.prompt.len() as u64;
            self.stats.prompt_tokens_total += prompt_tokens;
            if self.limits.prefix_cache == PrefixCache::Tenant {
                self.stats.prefix_query_tokens_total += prompt_tokens;
                self.stats.prefix_hit_tokens_total += cached_tokens as u64;
            }
            self.events.push(Event::Scheduled { id: in_flight.request.id, cached_tokens });
        }
    }

    /// Whether logits are wanted after the token at `position` though another token follows it.
    pub(super) fn wants_prompt_row(&self, sequence: SequenceId, position: usize) -> bool {
        let in_flight = self.requests.get(&sequence.request).filter(|_| sequence.choice == 0);
        in_flight.is_some_and(|in_flight| {
            let known = in_flight.prompt_logprobs.as_ref().map(Vec::len);
            // After a preemption the first rows are known already.
            known.is_some_and(|known| position >= known)
                && position + 1 < in_flight.request.prompt.len()
        })
    }

    /// What is wanted of the logits after the token at `position`: the log-probability of the
    /// prompt token that follows, or the next token.
    pub(super) fn wanted(&self, sequence: SequenceId, position: usize) -> RowSampling<'_> {
        let nothing = RowSampling(Wanted::Nothing);
        let Some(in_flight) = self.requests.get(&sequence.request) else { return nothing };
        let request = &in_flight.request;
        if let Some(&token) = request.prompt.get(position + 1) {
            return RowSampling(Wanted::Known { token, top: request.prompt_logprobs.unwrap_or(0) });
        }
        let Some(choice) = in_flight.choices.get(&sequence.choice) else { return nothing };
        if tokens_max(request, self.limits) == 0 {
            return nothing;
        }
        let is_unripe = choice.output_tokens < request.limits.min_tokens;
        RowSampling(Wanted::Next(NextToken {
            sampling: &request.sampling,
            history: &choice.history,
            masked: if is_unripe { &in_flight.stop_tokens } else { &[] },
            draw: Draw { choice: sequence.choice, position: choice.output_tokens },
            logprobs: request.logprobs,
        }))
    }

    /// Takes what came of the logits after the token at `position`.
    pub(super) fn commit_row(&mut self, sequence: SequenceId, position: usize, row: SampledRow) {
        let Some(in_flight) = self.requests.get_mut(&sequence.request) else { return };
        match in_flight.request.prompt.get(position + 1) {
            Some(&id) => {
                let known = in_flight.prompt_logprobs.get_or_insert_default();
                known.push(TokenOutput { id, logprobs: row.logprobs });
            }
            None => self.push(sequence, row),
        }
    }

    /// Takes the next token.
    fn push(&mut self, sequence: SequenceId, row: SampledRow) {
        let Some(in_flight) = self.requests.get_mut(&sequence.request) else { return };
        let request = &in_flight.request;
        let Some(choice) = in_flight.choices.get_mut(&sequence.choice) else { return };
        if let Some(tokens) = in_flight.prompt_logprobs.take_if(|_| sequence.choice == 0) {
            self.events.push(Event::Prompt { id: request.id, tokens });
            self.scheduler.prompt_rows_done(sequence);
        }
        let tokens_max = tokens_max(request, self.limits);
        if tokens_max == 0 {
            return self.finish(sequence, End::LENGTH);
        }
        let SampledRow { token: Some(token), logprobs } = row else {
            let words = "no token has a finite logit".into();
            return self.fail(sequence.request, &Failure { words, elsewhere: false });
        };
        let pushed = choice.push(token, tokens_max, request, &*self.vocabulary);
        self.stats.generation_tokens_total += 1;
        self.events.push(Event::Output {
            id: request.id,
            choice: sequence.choice,
            text: pushed.text,
            tokens: vec![TokenOutput { id: token, logprobs }],
        });
        match pushed.end {
            Some(end) => self.finish(sequence, end),
            None => self.scheduler.append(sequence, token),
        }
    }

    fn finish(&mut self, sequence: SequenceId, end: End) {
        self.scheduler.remove(sequence);
        let Some(in_flight) = self.requests.get_mut(&sequence.request) else { return };
        let Some(choice) = in_flight.choices.remove(&sequence.choice) else { return };
        let id = in_flight.request.id;
        let last = in_flight.choices.is_empty();
        self.events.push(Event::Finished {
            id,
            choice: sequence.choice,
            reason: end.reason,
            stop_reason: end.stop_reason,
            usage: in_flight.usage(choice.output_tokens),
            last,
        });
        if last {
            self.requests.remove(&sequence.request);
            self.arrivals.remove(&id);
        }
    }

    /// Ends a request whose answer cannot be computed.
    pub(super) fn fail(&mut self, arrival: u64, failure: &Failure) {
        let Some(in_flight) = self.requests.remove(&arrival) else { return };
        for &choice in in_flight.choices.keys() {
            self.scheduler.remove(SequenceId { request: arrival, choice });
        }
        let id = in_flight.request.id;
        self.arrivals.remove(&id);
        let Failure { words, elsewhere } = failure.clone();
        self.events.push(Event::Failed { id, error: words, elsewhere });
    }

    /// Ends every request, and forgets what the cache held.
    pub(super) fn restart(&mut self, failure: &Failure) {
        for arrival in self.requests.keys().copied().collect::<Vec<_>>() {
            self.fail(arrival, failure);
        }
        self.scheduler.forget_prefixes();
    }
}

/// Tokens that an answer to `request` may have.
fn tokens_max(request: &Request, limits: Limits) -> usize {
    let room = limits.context_tokens - request.prompt.len();
    request.limits.max_tokens.unwrap_or(room).min(room)
}
