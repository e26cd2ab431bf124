//! What the command line says about the `sim` backend.

use std::time::Duration;

use anyhow::{Context, bail};
use naru_engine::{SIM_PROFILES, SimProfile};

use crate::args::{Args, BackendArg};
use crate::weights::ModelUri;

const SCHEME: &str = "sim://";
/// Slower, and a step might take minutes; faster, and nothing is left to wait for.
const SPEEDS: std::ops::RangeInclusive<f64> = 0.01..=1000.0;
const LOAD_SECONDS_MAX: f64 = 3600.0;

/// A model and the accelerators it is said to run on.
#[derive(Debug, Clone)]
pub(crate) struct SimSettings {
    /// What is served if no name was given: of `sim://PROFILE` the profile, else as usual.
    pub(crate) name: String,
    pub(crate) profile: &'static SimProfile,
    pub(crate) speed: Speed,
    /// Modelled seconds.
    pub(crate) load_seconds: f64,
}

/// How modelled time becomes real time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Speed {
    /// Modelled seconds in each second.
    Times(f64),
    /// Nothing is waited for.
    Unpaced,
}

impl Speed {
    /// How long to wait for `seconds` of modelled time.
    pub(crate) fn real(self, seconds: f64) -> Duration {
        match self {
            Self::Times(speed) => Duration::from_secs_f64(seconds / speed),
            Self::Unpaced => Duration::ZERO,
        }
    }

    /// The modelled seconds that pass in `real` where nothing is computed.
    pub(crate) fn modelled(self, real: Duration) -> f64 {
        match self {
            Self::Times(speed) => real.as_secs_f64() * speed,
            Self::Unpaced => real.as_secs_f64(),
        }
    }
}

impl SimSettings {
    /// None: the backend is a real one. Errors: an unknown profile, two that differ, a number out
    /// of its range, an option that means nothing to the chosen backend.
    pub(crate) fn new(args: &Args) -> anyhow::Result<Option<Self>> {
        let uri = args.model.strip_prefix(SCHEME);
        if args.backend != BackendArg::Sim {
            refuse_options(args)?;
            return Ok(None);
        }
        let uri = uri.map(Uri::parse).transpose().context("--model")?.unwrap_or_default();
        let named = match (uri.profile, args.sim_profile.as_deref()) {
            (Some(of_uri), Some(option)) if of_uri != option => {
                bail!("--model {} and --sim-profile {option} differ", args.model)
            }
            (of_uri, option) => of_uri.or(option),
        };
        let profile = match named {
            None | Some("default") => SimProfile::default_profile(),
            Some(name) => SimProfile::named(name).with_context(|| unknown(name))?,
        };
        let name = match uri.profile {
            Some(_) => profile.name.to_owned(),
            None => args.model.parse::<ModelUri>().context("--model")?.default_name(),
        };
        let speed = match args.sim_speed.or(uri.speed).unwrap_or(1.0) {
            0.0 => Speed::Unpaced,
            speed if SPEEDS.contains(&speed) => Speed::Times(speed),
            speed => bail!("--sim-speed {speed} must be 0, or from 0.01 to 1000"),
        };
        let load_seconds = args.sim_load_seconds.or(uri.load_seconds).unwrap_or(0.0);
        if !(0.0..=LOAD_SECONDS_MAX).contains(&load_seconds) {
            bail!("--sim-load-seconds {load_seconds} must be from 0 to {LOAD_SECONDS_MAX}");
        }
        Ok(Some(Self { name, profile, speed, load_seconds }))
    }

    /// What every answer says of the system that made it.
    pub(crate) fn fingerprint(&self) -> String {
        format!("sim-{}", self.profile.name)
    }
}

/// `PROFILE[?speed=FACTOR][&load-seconds=SECONDS]`, for who can give a model but no options.
#[derive(Debug, Default)]
struct Uri<'a> {
    profile: Option<&'a str>,
    speed: Option<f64>,
    load_seconds: Option<f64>,
}

impl<'a> Uri<'a> {
    fn parse(text: &'a str) -> anyhow::Result<Self> {
        let (profile, query) = text.split_once('?').unwrap_or((text, ""));
        let mut uri = Self { profile: Some(profile), ..Self::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match key {
                "speed" => &mut uri.speed,
                "load-seconds" => &mut uri.load_seconds,
                _ => bail!("`{key}` is not known: use speed and load-seconds"),
            };
            *place = Some(value.parse().with_context(|| format!("{key}={value}"))?);
        }
        Ok(uri)
    }
}

/// Errors: an option that only the `sim` backend has.
fn refuse_options(args: &Args) -> anyhow::Result<()> {
    if args.model.starts_with(SCHEME) {
        bail!("--model {}: {SCHEME} needs --backend sim", args.model);
    }
    let options = [
        ("--sim-profile", args.sim_profile.is_some()),
        ("--sim-speed", args.sim_speed.is_some()),
        ("--sim-load-seconds", args.sim_load_seconds.is_some()),
    ];
    match options.iter().find(|(_, given)| *given) {
        Some((option, _)) => bail!("{option} needs --backend sim"),
        None => Ok(()),
    }
}

fn unknown(name: &str) -> String {
    let known: Vec<&str> = SIM_PROFILES.iter().map(|profile| profile.name).collect();
    format!("`{name}` is no profile that can be simulated: use {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn read(options: &str) -> anyhow::Result<Option<SimSettings>> {
        let words = std::iter::once("naru-worker").chain(options.split_whitespace());
        SimSettings::new(&Args::try_parse_from(words).expect(options))
    }

    #[track_caller]
    fn check(options: &str, profile: &str, speed: Speed, name: &str) {
        let settings = read(options).expect(options).expect(options);
        assert_eq!((settings.profile.name, settings.speed), (profile, speed), "{options}");
        assert_eq!(settings.name, name, "{options}");
        assert_eq!(settings.fingerprint(), format!("sim-{profile}"));
    }

    #[track_caller]
    fn check_refused(options: &str, part: &str) {
        let error = format!("{:#}", read(options).expect_err(options));
        assert!(error.contains(part), "{options}: {error}");
    }

    #[test]
    fn what_is_simulated() {
        let real_time = Speed::Times(1.0);
        let default = "llama-3.1-8b-h100";
        check(
            "--model sim://qwen3-8b-h100 --backend sim",
            "qwen3-8b-h100",
            real_time,
            "qwen3-8b-h100",
        );
        check("--model hf://a/b --backend sim", default, real_time, "a/b");
        check(
            "--model /m.gguf --backend sim --sim-profile qwen3-8b-h100 --sim-speed 2.5",
            "qwen3-8b-h100",
            Speed::Times(2.5),
            "m",
        );
        check("--model sim://default --backend sim", default, real_time, default);
        check("--model m --backend sim --sim-speed 0", default, Speed::Unpaced, "m");
        check(
            "--model sim://qwen3-8b-h100?speed=20&load-seconds=3 --backend sim",
            "qwen3-8b-h100",
            Speed::Times(20.0),
            "qwen3-8b-h100",
        );
        check(
            "--model sim://qwen3-8b-h100?speed=20 --backend sim --sim-speed 0",
            "qwen3-8b-h100",
            Speed::Unpaced,
            "qwen3-8b-h100",
        );
        let loads = read("--model sim://qwen3-8b-h100?load-seconds=3 --backend sim");
        assert_eq!(loads.expect("read").expect("simulated").load_seconds, 3.0);
        assert!(read("--model m").expect("a real one").is_none());
        assert!(read("--model m --backend cpu").expect("a real one").is_none());
    }

    #[test]
    fn what_makes_no_sense() {
        check_refused("--model sim://qwen3-8b-h100", "--backend sim");
        check_refused("--model m --sim-speed 2", "--sim-speed needs --backend sim");
        check_refused("--model sim://gpt-9 --backend sim", "llama-3.1-8b-h100");
        check_refused("--model sim:// --backend sim", "no profile");
        check_refused("--model sim://qwen3-8b-h100?sped=2 --backend sim", "`sped`");
        check_refused("--model sim://qwen3-8b-h100?speed=fast --backend sim", "speed=fast");
        check_refused("--model sim://qwen3-8b-h100?speed=-3 --backend sim", "0.01");
        check_refused("--model ftp://host/x --backend sim", "no scheme");
        check_refused("--model sim://qwen3-8b-h100 --backend sim --sim-profile x", "differ");
        check_refused("--model m --backend sim --sim-speed 0.001", "0.01");
        check_refused("--model m --backend sim --sim-speed=-1", "0.01");
        check_refused("--model m --backend sim --sim-speed NaN", "0.01");
        check_refused("--model m --backend sim --sim-load-seconds 1e9", "3600");
    }

    #[test]
    fn modelled_time_and_real_time() {
        let (tenfold, unpaced) = (Speed::Times(10.0), Speed::Unpaced);
        assert_eq!(tenfold.real(2.0), Duration::from_millis(200));
        assert_eq!(tenfold.modelled(Duration::from_millis(200)), 2.0);
        assert_eq!(unpaced.real(2.0), Duration::ZERO);
        assert_eq!(unpaced.modelled(Duration::from_secs(2)), 2.0);
    }
}
