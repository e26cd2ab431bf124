//! Ports of this machine on which the ranks of a replica meet.
//!
//! The members of a replica are told each other's addresses before any of them runs, so these are
//! chosen for them. What is free now may be taken a moment later, by anybody: a member that finds
//! it so ends, and then the whole replica is given others (see [`super::record`]).

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use naru_plan::Parallelism;

/// Ports looked at for each one that is needed.
const TRIES_MAX: u32 = 1000;

/// Why there are no ports for the ranks of a replica.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// The system gives none.
    #[error("asking for free ports for the ranks of a replica")]
    Ask(#[source] io::Error),
    /// There are too few in a row.
    #[error("there are no {0} free ports in a row for the ranks of a member")]
    TooFew(u32),
}

/// Where the first rank of each member listens; its further ranks are on the ports after that. None
/// is among `taken`.
pub(super) fn find(
    parallelism: Parallelism,
    taken: &BTreeSet<u16>,
) -> Result<Vec<SocketAddr>, PortsError> {
    let each = parallelism.devices_per_member();
    // Held until all are found, or two members would be given the same.
    let mut held = Vec::new();
    let mut found = Vec::new();
    let mut tries = parallelism.ranks().saturating_mul(TRIES_MAX);
    while found.len() < parallelism.members() as usize {
        tries = tries.checked_sub(1).ok_or(PortsError::TooFew(each))?;
        let first = listen(0).map_err(PortsError::Ask)?;
        let address = first.local_addr().map_err(PortsError::Ask)?;
        if let Some(listeners) = row(first, address.port(), each, taken) {
            held.extend(listeners);
            found.push(address);
        }
    }
    Ok(found)
}

/// The listeners of `each` ports from that of `first` on, if all are free.
fn row(
    first: TcpListener,
    port: u16,
    each: u32,
    taken: &BTreeSet<u16>,
) -> Option<Vec<TcpListener>> {
    let mut ports = of_member(port, each);
    if ports.len() < each as usize || ports.iter().any(|port| taken.contains(port)) {
        return None;
    }
    let others = ports.split_off(1).into_iter().map(|port| listen(port).ok());
    std::iter::once(Some(first)).chain(others).collect()
}

/// The ports of the ranks of a member whose first one has `port`, as far as there are any.
pub(super) fn of_member(port: u16, each: u32) -> Vec<u16> {
    (0..each).filter_map(|rank| port.checked_add(u16::try_from(rank).ok()?)).collect()
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_has_a_port_that_nobody_has() {
        let parallelism = Parallelism::new(4, 2, 2).unwrap();
        let mut taken = BTreeSet::new();
        for replica in 0..8 {
            let found = find(parallelism, &taken).unwrap();
            assert_eq!(found.len(), 4, "a first one for each member");
            for address in found {
                for port in of_member(address.port(), 2) {
                    assert!(taken.insert(port), "replica {replica} is given {port} once more");
                    listen(port).expect("it is free");
                }
            }
        }
    }

    #[test]
    fn a_row_ends_with_the_last_port() {
        assert_eq!(of_member(65534, 4), [65534, 65535]);
        let first = listen(0).unwrap();
        assert!(row(first, 65535, 2, &BTreeSet::new()).is_none(), "there is none after it");
    }

    #[test]
    fn what_somebody_else_has_is_in_no_row() {
        let first = listen(0).unwrap();
        let port = first.local_addr().unwrap().port();
        assert!(row(first, port, 1, &BTreeSet::from([port])).is_none(), "another replica has it");
    }
}
