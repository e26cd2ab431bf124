//! What `/metrics` shows: `naru_*`, and the `vllm:` names that endpoint pickers read.

mod gpu;
mod process;
mod ranks;
mod simulation;
mod timing;

use std::sync::Arc;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    Opts, Registry, TextEncoder,
};

use crate::drive::Load;
use crate::sim::Meter;

use gpu::Gpu;
use process::Process;
pub(crate) use ranks::RankSteps;
use ranks::Ranks;
use simulation::Simulation;
pub(crate) use timing::Timing;

/// Every metric of this process.
pub(crate) struct Metrics {
    registry: Registry,
    model: String,
    /// HTTP requests by endpoint and status class.
    pub(crate) requests: IntCounterVec,
    request_seconds: HistogramVec,
    phases: Phases,
    successes: Twice<IntCounterVec>,
    totals: Totals,
    levels: Levels,
    /// Seconds that fetching and loading took.
    pub(crate) load_seconds: GaugeVec,
    certificate_expiry: GaugeVec,
    gpu: Gpu,
    process: Process,
    ranks: Ranks,
    simulation: Simulation,
}

/// One thing under two names.
struct Twice<T> {
    naru: T,
    vllm: T,
}

struct Phases {
    queue: Twice<Histogram>,
    prefill: Twice<Histogram>,
    decode: Twice<Histogram>,
    inference: Twice<Histogram>,
    first_token: Twice<Histogram>,
    next_token: Twice<Histogram>,
    /// The older of vLLM's two names for the same.
    next_token_older: Histogram,
    whole: Twice<Histogram>,
}

struct Totals {
    prompt_tokens: Twice<IntCounter>,
    generation_tokens: Twice<IntCounter>,
    preemptions: Twice<IntCounter>,
    prefix_queries: Twice<IntCounter>,
    prefix_hits: Twice<IntCounter>,
    steps: IntCounter,
    steps_failed: IntCounter,
    partial_prefills: IntCounter,
}

struct Levels {
    running: Twice<IntGauge>,
    waiting: Twice<IntGauge>,
    kv_usage: Twice<Gauge>,
    kv_blocks: GaugeVec,
    queued_prompt_tokens: IntGauge,
    batch_tokens: IntGauge,
    batch_sequences: IntGauge,
}

const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Registers metrics, half of them under two names.
struct Builder<'a> {
    registry: &'a Registry,
    model: &'a str,
}

impl Builder<'_> {
    fn keep<T: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: prometheus::Result<T>,
    ) -> T {
        let metric = metric.expect("names and labels are constants that a test registers");
        let registered = self.registry.register(Box::new(metric.clone()));
        registered.expect("no name is registered twice, as a test shows");
        metric
    }

    fn vllm(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("vllm:{name}"), help).const_label("model_name", self.model)
    }

    fn counter(&self, name: &str, vllm: &str, help: &str) -> Twice<IntCounter> {
        Twice {
            naru: self.keep(IntCounter::new(format!("naru_{name}"), help)),
            vllm: self.keep(IntCounter::with_opts(self.vllm(vllm, help))),
        }
    }

    fn level(&self, name: &str, vllm: &str, help: &str) -> Twice<IntGauge> {
        Twice {
            naru: self.keep(IntGauge::new(format!("naru_{name}"), help)),
            vllm: self.keep(IntGauge::with_opts(self.vllm(vllm, help))),
        }
    }

    fn seconds(&self, name: &str, vllm: &str, help: &str) -> Twice<Histogram> {
        let opts = |opts: Opts| HistogramOpts { common_opts: opts, buckets: SECONDS.to_vec() };
        let naru = opts(Opts::new(format!("naru_{name}"), help));
        Twice {
            naru: self.keep(Histogram::with_opts(naru)),
            vllm: self.keep(Histogram::with_opts(opts(self.vllm(vllm, help)))),
        }
    }
}

impl Twice<Histogram> {
    fn observe(&self, seconds: f64) {
        self.naru.observe(seconds);
        self.vllm.observe(seconds);
    }
}

impl Twice<IntCounter> {
    /// The engine keeps the total; this shows it. Totals never fall.
    fn raise_to(&self, total: u64) {
        for counter in [&self.naru, &self.vllm] {
            raise(counter, total);
        }
    }
}

fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

impl Twice<IntGauge> {
    fn set(&self, value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.naru.set(value);
        self.vllm.set(value);
    }
}

impl Metrics {
    /// All metrics, at zero. `model` is the first served name.
    pub(crate) fn new(model: &str) -> Self {
        let registry = Registry::new();
        let build = Builder { registry: &registry, model };
        let requests = IntCounterVec::new(
            Opts::new("naru_http_requests_total", "HTTP requests answered"),
            &["endpoint", "status"],
        );
        let request_seconds = HistogramVec::new(
            HistogramOpts::new(
                "naru_http_request_seconds",
                "Until the head of the answer was sent",
            )
            .buckets(SECONDS.to_vec()),
            &["endpoint"],
        );
        let info = GaugeVec::new(Opts::new("naru_build_info", "Always 1"), &["version"]);
        let load_seconds = GaugeVec::new(
            Opts::new("naru_model_load_seconds", "How long getting ready took"),
            &["phase"],
        );
        let certificate_expiry = GaugeVec::new(
            Opts::new(
                "naru_certificate_expiry_timestamp_seconds",
                "When the certificate in use is no longer valid, Unix seconds",
            ),
            &["role"],
        );
        let success_help = "Answers that came to their end";
        let successes = Twice {
            naru: build.keep(IntCounterVec::new(
                Opts::new("naru_request_success_total", success_help),
                &["finished_reason"],
            )),
            vllm: build.keep(IntCounterVec::new(
                build.vllm("request_success_total", success_help),
                &["finished_reason"],
            )),
        };
        // No adapters are served; endpoint pickers still ask.
        let adapters = build
            .vllm("lora_requests_info", "Always 1: there are no adapters")
            .const_label("max_lora", "0")
            .const_label("running_lora_adapters", "")
            .const_label("waiting_lora_adapters", "");
        build.keep(Gauge::with_opts(adapters)).set(1.0);
        build.keep(info).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        Self {
            requests: build.keep(requests),
            request_seconds: build.keep(request_seconds),
            phases: Phases::new(&build),
            successes,
            totals: Totals::new(&build),
            levels: Levels::new(&build),
            load_seconds: build.keep(load_seconds),
            certificate_expiry: build.keep(certificate_expiry),
            gpu: Gpu::new(&build),
            process: Process::new(&build),
            ranks: Ranks::new(&build),
            simulation: Simulation::new(&build),
            model: model.to_owned(),
            registry,
        }
    }

    /// Counts one HTTP answer. `endpoint` is a route, never a path as a client wrote it.
    pub(crate) fn count_request(&self, endpoint: &str, status: u16, seconds: f64) {
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests.with_label_values(&[endpoint, class]).inc();
        self.request_seconds.with_label_values(&[endpoint]).observe(seconds);
    }

    /// Says until when peers believe who this worker is.
    pub(crate) fn show_certificate(&self, expires_unix_seconds: i64) {
        self.certificate_expiry.with_label_values(&["worker"]).set(expires_unix_seconds as f64);
    }

    /// Says what the engine was given, for those who compute from vLLM's `cache_config_info`.
    pub(crate) fn describe_cache(&self, block_tokens: usize, blocks: usize) {
        let build = Builder { registry: &self.registry, model: &self.model };
        let opts = build
            .vllm("cache_config_info", "Always 1")
            .const_label("block_size", block_tokens.to_string())
            .const_label("num_gpu_blocks", blocks.to_string())
            .const_label("num_cpu_blocks", blocks.to_string());
        build.keep(Gauge::with_opts(opts)).set(1.0);
    }

    /// Says that this worker only simulates, and shows what `meter` shows.
    pub(crate) fn simulate(&self, meter: Arc<Meter>) {
        self.simulation.start(meter);
    }

    /// Shows what the GPUs with these bus addresses say of themselves.
    pub(crate) fn watch_gpus(&self, pci_bus_ids: Vec<String>) {
        self.gpu.watch(pci_bus_ids);
    }

    /// Where the steps of `rank`, which is here, are noted.
    pub(crate) fn rank_steps(&self, rank: usize) -> RankSteps {
        self.ranks.of(rank)
    }

    /// The text that Prometheus reads.
    pub(crate) fn render(&self, load: Option<&Load>) -> String {
        if let Some(load) = load {
            self.totals.show(load);
            self.levels.show(load);
        }
        self.gpu.look();
        self.process.look();
        self.simulation.look();
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("writing to a string does not fail")
    }
}

impl Phases {
    fn new(build: &Builder<'_>) -> Self {
        let seconds = |name: &str, vllm: &str, help: &str| {
            build.seconds(&format!("{name}_seconds"), vllm, help)
        };
        Self {
            queue: seconds(
                "request_queue",
                "request_queue_time_seconds",
                "From admission to the first step",
            ),
            prefill: seconds(
                "request_prefill",
                "request_prefill_time_seconds",
                "From the first step to the first token",
            ),
            decode: seconds(
                "request_decode",
                "request_decode_time_seconds",
                "From the first token to the last",
            ),
            inference: seconds(
                "request_inference",
                "request_inference_time_seconds",
                "From the first step to the last token",
            ),
            first_token: seconds(
                "time_to_first_token",
                "time_to_first_token_seconds",
                "From admission to the first token",
            ),
            next_token: seconds(
                "inter_token_latency",
                "inter_token_latency_seconds",
                "Between two tokens of one answer",
            ),
            next_token_older: build.keep(Histogram::with_opts(HistogramOpts {
                common_opts: build.vllm("time_per_output_token_seconds", "Between two tokens"),
                buckets: SECONDS.to_vec(),
            })),
            whole: seconds(
                "request_latency",
                "e2e_request_latency_seconds",
                "From admission to the last token",
            ),
        }
    }
}

impl Totals {
    fn new(build: &Builder<'_>) -> Self {
        let plain =
            |name: &str, help: &str| build.keep(IntCounter::new(format!("naru_{name}"), help));
        let same = |name: &str, help: &str| build.counter(name, name, help);
        Self {
            prompt_tokens: same("prompt_tokens_total", "Prompt tokens computed or found cached"),
            generation_tokens: same("generation_tokens_total", "Tokens sampled"),
            preemptions: build.counter(
                "preemptions_total",
                "num_preemptions_total",
                "Times a running answer lost its KV blocks",
            ),
            prefix_queries: same("prefix_cache_queries_total", "Prompt tokens looked up"),
            prefix_hits: same("prefix_cache_hits_total", "Prompt tokens found cached"),
            steps: plain("engine_steps_total", "Forward passes"),
            steps_failed: plain("engine_steps_failed_total", "Forward passes that failed"),
            partial_prefills: plain("partial_prefills_total", "Steps that took part of a prompt"),
        }
    }

    fn show(&self, load: &Load) {
        let stats = &load.stats;
        self.prompt_tokens.raise_to(stats.prompt_tokens_total);
        self.generation_tokens.raise_to(stats.generation_tokens_total);
        self.preemptions.raise_to(stats.preemptions_total);
        self.prefix_queries.raise_to(stats.prefix_query_tokens_total);
        self.prefix_hits.raise_to(stats.prefix_hit_tokens_total);
        raise(&self.steps, stats.steps_total);
        raise(&self.steps_failed, stats.steps_failed_total);
        raise(&self.partial_prefills, stats.partial_prefills_total);
    }
}

impl Levels {
    fn new(build: &Builder<'_>) -> Self {
        let plain =
            |name: &str, help: &str| build.keep(IntGauge::new(format!("naru_{name}"), help));
        let usage = "Share of KV blocks in use, 0 to 1";
        Self {
            running: build.level(
                "requests_running",
                "num_requests_running",
                "Answers in the batch",
            ),
            waiting: build.level(
                "requests_waiting",
                "num_requests_waiting",
                "Answers in the queue",
            ),
            kv_usage: Twice {
                naru: build.keep(Gauge::new("naru_kv_cache_usage_ratio", usage)),
                vllm: build.keep(Gauge::with_opts(build.vllm("kv_cache_usage_perc", usage))),
            },
            kv_blocks: build.keep(GaugeVec::new(
                Opts::new("naru_kv_blocks", "KV blocks by what they are doing"),
                &["state"],
            )),
            queued_prompt_tokens: plain("queued_prompt_tokens", "Prompt tokens in the queue"),
            batch_tokens: plain("batch_tokens", "Tokens in the last forward pass"),
            batch_sequences: plain("batch_sequences", "Sequences in the last forward pass"),
        }
    }

    fn show(&self, load: &Load) {
        let stats = &load.stats;
        self.running.set(stats.running);
        self.waiting.set(stats.waiting);
        let usage = stats.kv_blocks_used as f64 / stats.kv_blocks_total.max(1) as f64;
        self.kv_usage.naru.set(usage);
        self.kv_usage.vllm.set(usage);
        let free = stats
            .kv_blocks_total
            .saturating_sub(stats.kv_blocks_used)
            .saturating_sub(stats.kv_blocks_cached);
        for (state, blocks) in
            [("used", stats.kv_blocks_used), ("cached", stats.kv_blocks_cached), ("free", free)]
        {
            self.kv_blocks.with_label_values(&[state]).set(blocks as f64);
        }
        self.queued_prompt_tokens.set(load.queued_prompt_tokens as i64);
        self.batch_tokens.set(stats.batch_tokens as i64);
        self.batch_sequences.set(stats.batch_sequences as i64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use naru_engine::LinkTime;

    use super::*;

    #[test]
    fn a_step_is_computing_waiting_and_the_link() {
        let metrics = Metrics::new("m");
        let ms = Duration::from_millis;
        let spent = LinkTime { step: ms(10), wait: ms(3), link: ms(2), bytes: 576 };
        metrics.rank_steps(1).observe(spent);
        let text = metrics.render(None);
        for line in [
            "naru_rank_step_seconds_sum{part=\"compute\",rank=\"1\"} 0.005",
            "naru_rank_step_seconds_sum{part=\"wait\",rank=\"1\"} 0.003",
            "naru_rank_step_seconds_sum{part=\"link\",rank=\"1\"} 0.002",
            "naru_rank_sent_bytes_total{rank=\"1\"} 576",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_metric_registers_and_both_names_are_there() {
        let metrics = Metrics::new("m");
        metrics.describe_cache(16, 10);
        metrics.count_request("/v1/models", 200, 0.1);
        let text = metrics.render(Some(&Load::default()));
        for name in [
            "naru_requests_running 0",
            "vllm:num_requests_running{model_name=\"m\"} 0",
            "vllm:num_requests_waiting{model_name=\"m\"} 0",
            "vllm:kv_cache_usage_perc{model_name=\"m\"} 0",
            "vllm:cache_config_info{block_size=\"16\",model_name=\"m\"",
            "vllm:time_per_output_token_seconds_count{model_name=\"m\"} 0",
            "vllm:lora_requests_info{max_lora=\"0\"",
            "naru_http_requests_total{endpoint=\"/v1/models\",status=\"2xx\"} 1",
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
