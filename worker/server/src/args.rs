//! The command line.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::cuda;

const EXAMPLES: &str = "\
Examples:
  naru-worker --model ./SmolLM2-135M-Instruct.Q4_1.gguf
  naru-worker --model hf://Qwen/Qwen2.5-0.5B-Instruct --served-name qwen
  naru-worker --model sim://llama-3.1-8b-h100 --backend sim --sim-speed 10
  naru-worker --model ./model.gguf --backend cuda --device 1
  naru-worker --model ./model.gguf --tensor 3 --member 0 --members a:8002,b:8002,c:8002 \
              --links-listen 0.0.0.0:8002
  naru-worker --model ./model.gguf --pipeline 2 --devices-per-member 2
  naru-worker --model ./model.gguf --backend cuda --tensor 4 --devices-per-member 4
  naru-worker --model https://models.example/m.gguf --sha256 9f86d0… --listen 0.0.0.0:8000

Environment:
  HF_TOKEN, HF_ENDPOINT      access token and address of the Hugging Face hub
  AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
                             the server behind s3:// and who one is there
  AWS_VIRTUAL_HOSTED_STYLE_REQUEST
                             true: BUCKET.HOST/KEY [default: HOST/BUCKET/KEY, but for Amazon]
  DOCKER_CONFIG              directory of config.json with logins to registries
  HTTPS_PROXY, NO_PROXY      proxy for fetching weights
  SSL_CERT_FILE              certificates to trust instead of the system's
  NARU_CACHE_DIR             where fetched weights are kept (default ~/.cache/naru)
  NARU_CPU_LEVEL             portable, avx2 or avx512: use no more than this
  NARU_NCCL                  1: GPUs of several ranks sum by NCCL, if all have libnccl.so.2
  NARU_LOG                   what to log, e.g. `info` or `naru_worker=debug`

Exit codes: 0 done, 1 failed, 2 bad usage or no usable GPU.";

const RANKS: &str = "One replica as several workers";

/// Serves one model over OpenAI's HTTP API.
#[derive(Debug, Clone, Parser)]
#[command(name = "naru-worker", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A .gguf file or a checkpoint directory: a path, file://, https://, hf://ORG/REPO[@REV][/FILE],
    /// oci://REGISTRY/REPO:TAG or s3://BUCKET/KEY
    #[arg(long, value_name = "PATH-or-URI")]
    pub(crate) model: String,

    /// What computes
    #[arg(long, value_enum, default_value = "cpu")]
    pub(crate) backend: BackendArg,

    /// With --backend cuda: which of this machine's GPUs, counted from 0; further ranks of this
    /// worker have the next ones [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) device: Option<u32>,

    /// Ranks that share each layer of the model
    #[arg(long, value_name = "COUNT", default_value = "1", help_heading = RANKS)]
    pub(crate) tensor: NonZeroUsize,

    /// Stages that the layers are spread over, of --tensor ranks each
    #[arg(long, value_name = "COUNT", default_value = "1", help_heading = RANKS)]
    pub(crate) pipeline: NonZeroUsize,

    /// Ranks that each worker holds; there are --tensor × --pipeline ÷ this many workers
    #[arg(long, value_name = "COUNT", default_value = "1", help_heading = RANKS)]
    pub(crate) devices_per_member: NonZeroUsize,

    /// Which of the workers this is; 0 holds rank 0, which schedules and answers
    #[arg(long, value_name = "NUMBER", default_value = "0", help_heading = RANKS)]
    pub(crate) member: usize,

    /// Where the workers' first ranks are reached, in their order, separated by commas; further
    /// ranks of a worker are at the next ports. One worker alone needs none
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', help_heading = RANKS)]
    pub(crate) members: Vec<String>,

    /// Address of this worker's first rank, its further ones have the next ports; with --tls-dir,
    /// for workers with a certificate alone
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8002",
        help_heading = RANKS
    )]
    pub(crate) links_listen: SocketAddr,

    /// Name that all ranks of one replica have in common, and no others
    #[arg(long, value_name = "NAME", default_value = "replica", help_heading = RANKS)]
    pub(crate) replica: String,

    /// Address of the OpenAI API; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub(crate) listen: SocketAddr,

    /// Address of /metrics, /healthz and /readyz [default: the same as --listen]; needed with
    /// --tls-dir, because probes and Prometheus show no certificate
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ops_listen: Option<SocketAddr>,

    /// Address of the gRPC that an operator uses
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) control_listen: SocketAddr,

    /// Directory of tls.crt, tls.key and ca.crt: then --listen admits gateways and operators with
    /// a certificate of ca.crt alone, and --control-listen too; changed files are taken up
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) tls_dir: Option<PathBuf>,

    /// Name that requests give as `model`; may be repeated [default: the model's file name]
    #[arg(long = "served-name", value_name = "NAME")]
    pub(crate) served_names: Vec<String>,

    /// Compute threads of this worker, shared among its ranks [default: the cores this process may
    /// use]
    #[arg(long, value_name = "COUNT")]
    pub(crate) threads: Option<NonZeroUsize>,

    /// Answers that are computed at the same time
    #[arg(long, value_name = "COUNT", default_value = "64")]
    pub(crate) max_sequences: NonZeroUsize,

    /// Tokens computed in one step
    #[arg(long, value_name = "TOKENS", default_value = "512")]
    pub(crate) max_batch_tokens: NonZeroUsize,

    /// Tokens of a prompt and its answer together [default: what the model was trained for]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_context_tokens: Option<NonZeroUsize>,

    /// Memory for keys and values, e.g. 512Mi or 2Gi [default: 1Gi; sim: what the profile has left]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) kv_cache_memory: Option<u64>,

    /// Whose requests may reuse each other's computed prefixes
    #[arg(long, value_enum, default_value = "tenant")]
    pub(crate) prefix_cache: PrefixCacheArg,

    /// How long running answers may go on after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    pub(crate) drain_seconds: u32,

    /// Largest request body, e.g. 8Mi
    #[arg(long, value_name = "BYTES", default_value = "8Mi", value_parser = parse_bytes)]
    pub(crate) max_body: u64,

    /// Expected SHA-256 of the weights: of the file, or of a directory's sorted `sha256sum` lines
    #[arg(long, value_name = "HEX", value_parser = parse_sha256)]
    pub(crate) sha256: Option<String>,

    /// Where fetched weights are kept
    #[arg(long, value_name = "DIRECTORY", env = "NARU_CACHE_DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// PEM file of certificates to trust besides the system's when fetching weights
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// Directory of secrets for fetching weights, each a file: HF_TOKEN, AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, .dockerconfigjson [default: the environment]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) credentials_dir: Option<PathBuf>,

    /// With --backend sim: the model and accelerators that are simulated, unless --model
    /// sim://PROFILE says it [default: llama-3.1-8b-h100]
    #[arg(long, value_name = "PROFILE")]
    pub(crate) sim_profile: Option<String>,

    /// With --backend sim: modelled seconds in one second, from 0.01 to 1000; 0 waits for nothing
    /// [default: 1]
    #[arg(long, value_name = "FACTOR")]
    pub(crate) sim_speed: Option<f64>,

    /// With --backend sim: modelled seconds that loading takes [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) sim_load_seconds: Option<f64>,

    /// Exit when standard input ends: the parent process is gone
    #[arg(long)]
    pub(crate) exit_with_stdin: bool,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    /// The processor's cores
    Cpu,
    /// NVIDIA GPUs.
    #[value(help = cuda::HELP)]
    Cuda,
    /// Nothing: a model of time and watts, for tests of everything above the engine
    Sim,
}

/// Who shares cached prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrefixCacheArg {
    /// Requests with the same x-naru-tenant header; it counts from a gateway that proves itself
    /// (--tls-dir), without --tls-dir from this machine, and is ignored from all others
    Tenant,
    /// Nobody
    Off,
}

/// Reads `123`, `4Ki`, `5Mi`, `6Gi`, `4k`, `5M` or `6G`, as Kubernetes writes quantities.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        other => return Err(format!("unknown unit `{other}`: use Ki, Mi, Gi, k, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a number such as 512Mi".to_owned())?;
    match number.checked_mul(unit) {
        Some(0) | None => Err("must be above 0 and below 16 EiB".to_owned()),
        Some(bytes) => Ok(bytes),
    }
}

fn parse_sha256(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("expected 64 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        #[track_caller]
        fn check(text: &str, expected: Option<u64>) {
            assert_eq!(parse_bytes(text).ok(), expected, "{text}");
        }
        check("512", Some(512));
        check("2Gi", Some(2 << 30));
        check("3M", Some(3_000_000));
        check("0", None);
        check("-1Gi", None);
        check("2 Gi", None);
        check("2Ti", None);
        check("99999999999Gi", None);
        check("", None);
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
