//! From a template to the command line of `naru-worker`.

use naru_plan::{Backend, PrefixCache, Sha256, Template};

/// The arguments that say what a worker serves; where it listens is its world's to add.
///
/// `model` is where it finds the weights in its world. Without `threads` it computes on every core
/// it may use.
pub(crate) fn of_worker(template: &Template, model: &str, threads: Option<usize>) -> Vec<String> {
    let engine = &template.engine;
    let mut arguments = Vec::new();
    let mut give = |flag: &str, value: String| arguments.extend([format!("--{flag}"), value]);
    match &template.backend {
        Backend::Cpu => {} // what a worker does unless it is told otherwise
        // Its world shows it its one GPU as the first.
        Backend::Cuda(_) => give("backend", "cuda".to_owned()),
        Backend::Sim => give("backend", "sim".to_owned()),
    }
    give("model", model.to_owned());
    if let Some(sha256) = template.model.sha256.as_ref().map(Sha256::as_str) {
        give("sha256", sha256.to_owned());
    }
    for name in template.names.iter() {
        give("served-name", name.to_string());
    }
    let parallelism = template.parallelism;
    if parallelism.ranks() > 1 {
        give("tensor", parallelism.tensor().to_string());
        give("pipeline", parallelism.pipeline().to_string());
        give("devices-per-member", parallelism.devices_per_member().to_string());
    }
    if let Some(threads) = threads {
        give("threads", threads.to_string());
    }
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
    arguments
}

/// The arguments by which a member of a replica of several ranks finds the others. `members` are
/// addresses of the first rank of each member; their further ranks are on the ports after it.
pub(crate) fn of_member(
    replica: String,
    member: String,
    members: &[String],
    listen: String,
) -> Vec<String> {
    let flags = [
        ("--replica", replica),
        ("--member", member),
        ("--members", members.join(",")),
        ("--links-listen", listen),
    ];
    flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
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

    /// The value of `flag`.
    #[track_caller]
    fn check_flag(fact: &str, spec: &str, flag: &str, value: Option<&str>) {
        let arguments = of_worker(&template(spec), "file:///m.gguf", Some(3));
        let place = arguments.iter().position(|argument| argument == flag);
        assert_eq!(place.map(|place| arguments[place + 1].as_str()), value, "{fact}");
    }

    #[test]
    fn arguments() {
        check_flag("cores", "", "--backend", None);
        check_flag("a GPU", "backend: cuda", "--backend", Some("cuda"));
        check_flag("the first", "backend: cuda", "--device", None);
        check_flag("a model", "", "--model", Some("file:///m.gguf"));
        check_flag("threads", "", "--threads", Some("3"));
        check_flag("a default", "", "--max-sequences", Some("64"));
        check_flag("what the model says", "", "--max-context-tokens", None);
        check_flag("bytes", "", "--kv-cache-memory", Some("1073741824"));
        check_flag("its own name", "", "--served-name", Some("solar"));
        let any = of_worker(&template(""), "file:///m.gguf", None);
        assert!(!any.contains(&"--threads".to_owned()), "whatever it may use");
    }
}
