//! What the command line says of the ranks of a replica, and which of them are here.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::Range;

use anyhow::{Context, ensure};
use naru_engine::{ModelFiles, Parallelism, Shard, Splits};

use crate::args::{Args, BackendArg};

/// The ranks of this member among all of the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RankSettings {
    pub(crate) parallelism: Parallelism,
    /// Those of this member.
    pub(crate) ranks: Range<usize>,
    pub(crate) replica: String,
    /// HOST:PORT of each rank of the replica, as it is reached from here.
    pub(crate) addresses: Vec<String>,
    listen: SocketAddr,
}

impl RankSettings {
    /// None: this worker is a whole replica. Errors: values that exclude each other.
    pub(crate) fn new(args: &Args) -> anyhow::Result<Option<Self>> {
        let (tensor, pipeline) = (args.tensor.get(), args.pipeline.get());
        let parallelism = Parallelism::new(tensor, pipeline).context("--tensor, --pipeline")?;
        let (ranks, each, member) =
            (parallelism.ranks(), args.devices_per_member.get(), args.member);
        let found = args.members.len();
        if ranks == 1 {
            let why = "needs --tensor or --pipeline above 1";
            ensure!(found == 0, "--members {why}");
            ensure!(member == 0, "--member {member} {why}");
            ensure!(each == 1, "--devices-per-member {each} {why}");
            return Ok(None);
        }
        ensure!(
            args.backend != BackendArg::Sim,
            "--tensor and --pipeline need --backend cpu or cuda; a simulated replica has one rank"
        );
        ensure!(
            ranks.is_multiple_of(each),
            "--devices-per-member {each} does not divide {ranks} ranks, --tensor × --pipeline"
        );
        let members = ranks / each;
        ensure!(member < members, "--member {member} of {members} members, counted from 0");
        ensure!(
            found == members || (found == 0 && members == 1),
            "--members names {found} addresses, and there are {members} members"
        );
        let addresses = addresses(args, each)?;
        let ranks = member * each..(member + 1) * each;
        let (replica, listen) = (args.replica.clone(), args.links_listen);
        Ok(Some(Self { parallelism, ranks, replica, addresses, listen }))
    }

    /// Where the rank of this member with the number `index` there listens.
    pub(crate) fn listen(&self, index: usize) -> SocketAddr {
        let port = raised(self.listen.port(), index);
        SocketAddr::new(self.listen.ip(), port.expect("the command line was checked"))
    }

    /// The part of a model that `rank` holds. Errors: the model cannot be cut so, and the splits
    /// that work.
    pub(crate) fn shard(&self, files: &ModelFiles, rank: usize) -> anyhow::Result<Shard> {
        Splits::of(files).check(self.parallelism).context("cutting the model")?;
        Shard::of(files.config(), self.parallelism, rank).context("cutting the model")
    }

    /// The compute threads of each rank here, of `threads` for all of them; at least 1.
    pub(crate) fn threads(&self, threads: NonZeroUsize) -> Vec<NonZeroUsize> {
        let (threads, ranks) = (threads.get(), self.ranks.len());
        let share = |index| threads / ranks + usize::from(index < threads % ranks);
        (0..ranks)
            .map(|index| NonZeroUsize::new(share(index)).unwrap_or(NonZeroUsize::MIN))
            .collect()
    }
}

/// HOST:PORT of every rank, `each` on a member. Errors: an address that is none, or of two ranks.
fn addresses(args: &Args, each: usize) -> anyhow::Result<Vec<String>> {
    let listen = args.links_listen;
    ensure!(listen.port() > 0, "--links-listen {listen}: the other ranks must know its port");
    let last = raised(listen.port(), each - 1);
    ensure!(last.is_some(), "--links-listen {listen}: {each} ranks need as many ports from there");
    let mut addresses = Vec::new();
    for member in &args.members {
        let (host, port) = host_and_port(member)
            .with_context(|| format!("--members: `{member}` is not HOST:PORT"))?;
        for index in 0..each {
            let port = raised(port, index).with_context(|| {
                format!("--members: {member}: {each} ranks need as many ports from there")
            })?;
            addresses.push(format!("{host}:{port}"));
        }
    }
    let mut seen = HashSet::new();
    if let Some(twice) = addresses.iter().find(|address| !seen.insert(*address)) {
        anyhow::bail!("--members: {twice} would be the address of two ranks");
    }
    // The ranks here find each other without a network that knows this member's name.
    let host = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let here = (0..each).filter_map(|index| raised(listen.port(), index));
    let here = here.map(|port| SocketAddr::new(host, port).to_string());
    let first = (args.member * each).min(addresses.len());
    addresses.splice(first..addresses.len().min(first + each), here);
    Ok(addresses)
}

fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty()).then_some((host, port))
}

fn raised(port: u16, by: usize) -> Option<u16> {
    port.checked_add(u16::try_from(by).ok()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn read(line: &str) -> anyhow::Result<Option<RankSettings>> {
        let words = ["naru-worker", "--model", "m.gguf"].into_iter().chain(line.split_whitespace());
        RankSettings::new(&Args::try_parse_from(words)?)
    }

    #[track_caller]
    fn check(why: &str, line: &str, ranks: Range<usize>, addresses: &[&str]) {
        let found = read(line).unwrap().expect("there are ranks");
        assert_eq!((found.ranks, found.addresses), (ranks, strings(addresses)), "{why}");
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_member_holds_ranks_that_follow_each_other() {
        let line = "--tensor 2 --members a:8002,b:9000 --member 1 --links-listen 0.0.0.0:9000";
        check("a rank each", line, 1..2, &["a:8002", "127.0.0.1:9000"]);
        let line = "--pipeline 4 --devices-per-member 2 --members a:8002,b:8002 --member 1";
        let all = ["a:8002", "a:8003", "127.0.0.1:8002", "127.0.0.1:8003"];
        check("two each", line, 2..4, &all);
        let line = "--pipeline 4 --devices-per-member 2 --members a:80,[fd00::2]:9 \
                    --links-listen [::]:80";
        check(
            "two each, of 0",
            line,
            0..2,
            &["[::1]:80", "[::1]:81", "[fd00::2]:9", "[fd00::2]:10"],
        );
        let line = "--tensor 2 --devices-per-member 2 --links-listen 10.0.0.1:7";
        check("one alone needs no addresses", line, 0..2, &["10.0.0.1:7", "10.0.0.1:8"]);
        let line = "--tensor 2 --devices-per-member 2 --members a:1 --links-listen 10.0.0.1:7";
        check("nor minds its own", line, 0..2, &["10.0.0.1:7", "10.0.0.1:8"]);
        assert_eq!(read("").unwrap(), None, "a replica alone");
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        #[track_caller]
        fn check(line: &str, expected: &str) {
            let error = read(line).map(|_| ()).unwrap_err();
            assert_eq!(format!("{error:#}"), expected, "{line}");
        }
        check("--members a:1", "--members needs --tensor or --pipeline above 1");
        check("--member 1", "--member 1 needs --tensor or --pipeline above 1");
        let why = "--devices-per-member 2 needs --tensor or --pipeline above 1";
        check("--devices-per-member 2", why);
        let why = "--tensor and --pipeline need --backend cpu or cuda; \
                   a simulated replica has one rank";
        check("--tensor 2 --backend sim", why);
        let why = "--devices-per-member 2 does not divide 3 ranks, --tensor × --pipeline";
        check("--tensor 3 --devices-per-member 2", why);
        let why = "--devices-per-member 4 does not divide 2 ranks, --tensor × --pipeline";
        check("--tensor 2 --devices-per-member 4", why);
        let why = "--members names 1 addresses, and there are 2 members";
        check("--tensor 2 --members a:1", why);
        let why = "--members names 0 addresses, and there are 2 members";
        check("--tensor 4 --devices-per-member 2", why);
        let why = "--member 2 of 2 members, counted from 0";
        check("--tensor 2 --members a:1,b:1 --member 2", why);
        for member in ["b", "b:", ":1", "b:0", "b:65536", "b:x"] {
            let why = format!("--members: `{member}` is not HOST:PORT");
            check(&format!("--tensor 2 --members a:1,{member}"), &why);
        }
        let why = "--members: b:65535: 2 ranks need as many ports from there";
        check("--tensor 4 --devices-per-member 2 --members a:1,b:65535", why);
        let why = "--members: a:2 would be the address of two ranks";
        check("--tensor 4 --devices-per-member 2 --members a:1,a:2", why);
        let why = "--links-listen 127.0.0.1:0: the other ranks must know its port";
        check("--tensor 2 --members a:1,b:1 --links-listen 127.0.0.1:0", why);
        let why = "--links-listen 127.0.0.1:65535: 2 ranks need as many ports from there";
        check("--tensor 2 --devices-per-member 2 --links-listen 127.0.0.1:65535", why);
        let error = read("--tensor 2 --devices-per-member 0").unwrap_err().to_string();
        assert!(error.contains("--devices-per-member"), "{error}");
    }

    #[test]
    fn threads_are_shared_out() {
        #[track_caller]
        fn check(threads: usize, expected: &[usize]) {
            let ranks = read("--pipeline 3 --devices-per-member 3").unwrap().unwrap();
            let found = ranks.threads(NonZeroUsize::new(threads).unwrap());
            assert_eq!(found.iter().map(|each| each.get()).collect::<Vec<_>>(), expected);
        }
        check(6, &[2, 2, 2]);
        check(5, &[2, 2, 1]);
        check(2, &[1, 1, 1]);
    }
}
