//! From a template to the command line of `naru-worker`.

use std::num::NonZeroUsize;

use naru_plan::{Backend, PrefixCache, ReplicaCount, Sha256, Template};

/// The arguments of a worker that is one of `replicas`.
///
/// Without threads of its own each gets an equal part of `cores`, at least one.
pub(super) fn of_worker(
    template: &Template,
    replicas: ReplicaCount,
    cores: NonZeroUsize,
) -> Vec<String> {
    let engine = &template.engine;
    let share = cores.get() / (replicas.0.max(1) as usize);
    let threads = template.resources.threads.map_or(share, |threads| threads.0.get());
    let mut arguments = Vec::new();
    let mut give = |flag: &str, value: String| arguments.extend([format!("--{flag}"), value]);
    if template.backend == Backend::Sim {
        give("backend", "sim".to_owned());
    }
    give("model", template.model.uri.as_str().to_owned());
    if let Some(sha256) = template.model.sha256.as_ref().map(Sha256::as_str) {
        give("sha256", sha256.to_owned());
    }
    for name in template.names.iter() {
        give("served-name", name.to_string());
    }
    give("threads", threads.clamp(1, cores.get()).to_string());
    give("max-sequences", engine.max_sequences.to_string());
    give("max-batch-tokens", engine.max_batch_tokens.to_string());
    if let Some(tokens) = engine.max_context_tokens {
        give("max-context-tokens", tokens.to_string());
    }
    give("kv-cache-memory", engine.kv_cache.0.to_string());
    let prefix_cache = match engine.prefix_cache {
        PrefixCache::Off => "off",
        PrefixCache::Tenant => "tenant",
    };
    give("prefix-cache", prefix_cache.to_owned());
    for flag in ["listen", "control-listen", "ops-listen"] {
        give(flag, "127.0.0.1:0".to_owned());
    }
    arguments.push("--exit-with-stdin".to_owned());
    arguments
}

#[cfg(test)]
mod tests {
    use naru_api::{Source, check};

    use super::*;

    fn template(spec: &str) -> Template {
        let text = format!(
            "apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: solar}}\n\
             spec: {{model: {{uri: file:///m.gguf}}, {spec}}}\n"
        );
        let mut parsed = check(&[Source { file: "a.yaml", text: &text }]).unwrap();
        parsed.deployments.remove(0).template
    }

    /// The value of `flag` for one of `replicas` on four cores.
    #[track_caller]
    fn check_flag(fact: &str, spec: &str, replicas: u32, flag: &str, value: Option<&str>) {
        let cores = NonZeroUsize::new(4).unwrap();
        let arguments = of_worker(&template(spec), ReplicaCount(replicas), cores);
        let place = arguments.iter().position(|argument| argument == flag);
        assert_eq!(place.map(|place| arguments[place + 1].as_str()), value, "{fact}");
    }

    #[test]
    fn arguments() {
        check_flag("a model", "", 1, "--model", Some("file:///m.gguf"));
        check_flag("one replica has all cores", "", 1, "--threads", Some("4"));
        check_flag("three share them", "", 3, "--threads", Some("1"));
        check_flag("many have one each", "", 9, "--threads", Some("1"));
        check_flag("a limit counts", "resources: {limits: {cpu: 2}}", 9, "--threads", Some("2"));
        let many = "resources: {limits: {cpu: 200}}";
        check_flag("as far as there are cores", many, 1, "--threads", Some("4"));
        check_flag("a default", "", 1, "--max-sequences", Some("64"));
        check_flag("what the model says", "", 1, "--max-context-tokens", None);
        check_flag("bytes", "", 1, "--kv-cache-memory", Some("1073741824"));
        check_flag("what computes", "backend: sim", 1, "--backend", Some("sim"));
        check_flag("its own name", "", 1, "--served-name", Some("solar"));
    }
}
