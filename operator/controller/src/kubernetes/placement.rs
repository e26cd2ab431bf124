//! Why no node takes a pod, each node with its reason, in one line to read. Pure.
//!
//! Known are the nodes and the pods that naru made; pods of others are seen only in what the
//! scheduler says of them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use naru_api::{CpuQuantity, MemoryQuantity};

use super::cluster::node_name;
use super::labels::ZONE;
use super::observe;

/// Different reasons that one line names, and nodes that it names of each.
const REASONS_MAX: usize = 4;
const NAMES_MAX: usize = 3;

/// What counts of a node for a pod that looks for one.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    is_ready: bool,
    is_cordoned: bool,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    room: Room,
}

/// Amounts of processor, memory and devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Room {
    millicores: u64,
    bytes: u64,
    /// By the resource as which a device plugin counts them.
    devices: BTreeMap<String, u64>,
}

/// The nodes, and what naru's pods hold of each.
#[derive(Default)]
pub(super) struct Placement {
    places: BTreeMap<String, Place>,
    /// Added up when it is first asked for.
    held: OnceLock<BTreeMap<String, Room>>,
}

impl Placement {
    /// Takes a node as it is now; returns whether that may change who takes a pod.
    pub(super) fn take(&mut self, name: &str, node: &Node) -> bool {
        let place = place(node);
        if self.places.get(name) == Some(&place) {
            return false;
        }
        self.places.insert(name.to_owned(), place);
        true
    }

    /// A node is gone; returns whether it was known.
    pub(super) fn forget(&mut self, name: &str) -> bool {
        self.places.remove(name).is_some()
    }

    /// Pods have come, gone or changed.
    pub(super) fn pods_changed(&mut self) {
        self.held = OnceLock::new();
    }

    /// How many of `wanted`, which are alike, the nodes take together.
    pub(super) fn room_for<'a>(
        &self,
        wanted: &[&Pod],
        pods: impl Iterator<Item = &'a Pod>,
    ) -> usize {
        let held = self.held.get_or_init(|| held(pods));
        let mut rooms: Vec<_> = self.places.iter().map(|place| room(place, held)).collect();
        let places = || self.places.values();
        let mut taken = 0;
        for spec in wanted.iter().filter_map(|pod| pod.spec.as_ref()) {
            let ask = Ask::of(spec);
            let takes = |(place, room): &(&Place, &mut Room)| {
                RULES.iter().all(|rule| rule(&ask, place, room).is_none())
            };
            let Some((_, room)) = places().zip(&mut rooms).find(takes) else { break };
            *room = room.without(&ask.room);
            taken += 1;
        }
        taken
    }

    /// Why no node takes `pod`, of which the scheduler says `said`.
    pub(super) fn refusals<'a>(
        &self,
        pod: &Pod,
        pods: impl Iterator<Item = &'a Pod>,
        said: &str,
    ) -> String {
        let Some(spec) = &pod.spec else { return said.to_owned() };
        let held = self.held.get_or_init(|| held(pods));
        let ask = Ask::of(spec);
        let mut unexplained = 0;
        let mut groups: BTreeMap<(usize, String), Vec<&str>> = BTreeMap::new();
        for (name, place) in &self.places {
            let room = room((name, place), held);
            let refusal = RULES.iter().enumerate().find_map(|(order, rule)| {
                let words = rule(&ask, place, &room)?;
                // The last rules first: nodes of these lack the least.
                Some((RULES.len() - order, words))
            });
            match refusal.or_else(|| Some((0, lacks_beside_others(said)?))) {
                Some(group) => groups.entry(group).or_default().push(name),
                None => unexplained += 1,
            }
        }
        line(&groups, unexplained, said)
    }
}

/// What pods of naru leave of a place.
fn room((name, place): (&String, &Place), held: &BTreeMap<String, Room>) -> Room {
    held.get(name).map_or_else(|| place.room.clone(), |held| place.room.without(held))
}

/// The groups of nodes in one line, bounded; with the scheduler's own words where ours end.
fn line(groups: &BTreeMap<(usize, String), Vec<&str>>, unexplained: usize, said: &str) -> String {
    if groups.is_empty() && unexplained == 0 {
        return "the cluster has no nodes".to_owned();
    }
    if groups.is_empty() {
        return said.to_owned();
    }
    let words = groups.iter().take(REASONS_MAX).map(|((_, reason), nodes)| {
        let more = nodes.len().saturating_sub(NAMES_MAX);
        let names = nodes.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
        if more > 0 {
            format!("{names} and {more} more like it: {reason}")
        } else {
            format!("{names}: {reason}")
        }
    });
    let mut words: Vec<_> = words.collect();
    let others: usize = groups.values().skip(REASONS_MAX).map(Vec::len).sum();
    if others > 0 {
        words.push(format!("and {others} more for other reasons"));
    }
    if unexplained > 0 {
        words.push(format!("of {unexplained} more the scheduler says: {}", first_sentence(said)));
    }
    format!("no node takes it: {}", words.join("; "))
}

/// What a pod asks of a node.
struct Ask<'a> {
    zones: Option<&'a [String]>,
    selector: Option<&'a BTreeMap<String, String>>,
    tolerations: &'a [Toleration],
    room: Room,
}

impl<'a> Ask<'a> {
    fn of(spec: &'a PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity
            .and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref());
        let terms = required.into_iter().flat_map(|required| &required.node_selector_terms);
        let mut wishes = terms.flat_map(|term| term.match_expressions.iter().flatten());
        let zones = wishes.find(|wish| wish.key == ZONE && wish.operator == "In");
        Self {
            zones: zones.and_then(|zones| zones.values.as_deref()),
            selector: spec.node_selector.as_ref(),
            tolerations: spec.tolerations.as_deref().unwrap_or_default(),
            room: requests(spec),
        }
    }
}

/// A reason to refuse a pod, of a place with so much room left.
type Rule = fn(&Ask<'_>, &Place, &Room) -> Option<String>;

/// The first that refuses gives the reason.
const RULES: [Rule; 9] = [
    is_not_ready,
    is_cordoned,
    is_in_another_zone,
    has_no_device,
    lacks_a_label,
    has_a_taint,
    is_short_of_devices,
    is_short_of_memory,
    is_short_of_cores,
];

fn is_not_ready(_: &Ask<'_>, place: &Place, _: &Room) -> Option<String> {
    (!place.is_ready).then(|| "not ready".to_owned())
}

fn is_cordoned(_: &Ask<'_>, place: &Place, _: &Room) -> Option<String> {
    place.is_cordoned.then(|| "cordoned".to_owned())
}

fn is_in_another_zone(ask: &Ask<'_>, place: &Place, _: &Room) -> Option<String> {
    let zones = ask.zones?;
    match place.labels.get(ZONE) {
        Some(zone) if zones.contains(zone) => None,
        Some(zone) => Some(format!("wrong zone ({zone})")),
        None => Some("in no zone".to_owned()),
    }
}

/// Whatever its labels say, it has none: that is said rather than which it should be.
fn has_no_device(ask: &Ask<'_>, place: &Place, _: &Room) -> Option<String> {
    let name = ask.room.devices.keys().find(|name| place.room.devices_of(name) == 0)?;
    Some(format!("no {name}"))
}

fn lacks_a_label(ask: &Ask<'_>, place: &Place, _: &Room) -> Option<String> {
    let mut wished = ask.selector.into_iter().flatten();
    let (key, value) = wished.find(|(key, value)| place.labels.get(*key) != Some(*value))?;
    Some(format!("no label {key}={value}"))
}

fn has_a_taint(ask: &Ask<'_>, place: &Place, _: &Room) -> Option<String> {
    let refuses = |taint: &&Taint| {
        taint.effect != "PreferNoSchedule" && !ask.tolerations.iter().any(|t| tolerates(t, taint))
    };
    let taint = place.taints.iter().find(refuses)?;
    let value = taint.value.as_deref().unwrap_or_default();
    let equals = if value.is_empty() { "" } else { "=" };
    Some(format!("taint {}{equals}{value}:{}", taint.key, taint.effect))
}

fn is_short_of_devices(ask: &Ask<'_>, place: &Place, room: &Room) -> Option<String> {
    let short = |(name, asked): (&String, &u64)| {
        let short = asked.saturating_sub(room.devices_of(name));
        (short > 0).then(|| (name.clone(), short))
    };
    let (name, short) = ask.room.devices.iter().find_map(short)?;
    let all = place.room.devices_of(&name);
    let held = all - room.devices_of(&name);
    Some(format!("insufficient {name}: {short} short, {held} of {all} taken"))
}

fn is_short_of_memory(ask: &Ask<'_>, _: &Place, room: &Room) -> Option<String> {
    let short = ask.room.bytes.checked_sub(room.bytes).filter(|short| *short > 0)?;
    Some(format!("{} of memory short", memory(short)))
}

fn is_short_of_cores(ask: &Ask<'_>, _: &Place, room: &Room) -> Option<String> {
    let short = ask.room.millicores.checked_sub(room.millicores).filter(|short| *short > 0)?;
    Some(format!("{} cores short", tenths_up(short, 1000)))
}

/// What the scheduler finds too little of, though naru's own pods leave enough.
fn lacks_beside_others(said: &str) -> Option<String> {
    let lacks = said.split("Insufficient ").skip(1);
    let end = |c: char| c == ',' || c.is_whitespace();
    let name = lacks.filter_map(|rest| rest.split(end).next());
    // A sentence may end there; names with a dot have no dot at their end.
    let mut names: Vec<_> = name.map(|name| name.trim_end_matches('.')).collect();
    names.dedup();
    (!names.is_empty()).then(|| format!("too little {} left beside other pods", names.join(", ")))
}

/// Whether a toleration is meant for a taint, by the rules of Kubernetes.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let exists = toleration.operator.as_deref() == Some("Exists");
    let any_or = |own: &Option<String>, theirs: &str| match own.as_deref() {
        None | Some("") => true,
        Some(own) => own == theirs,
    };
    let has_key = toleration.key.as_deref().is_some_and(|key| !key.is_empty());
    let value = toleration.value.as_deref().unwrap_or_default();
    any_or(&toleration.effect, &taint.effect)
        && (has_key || exists)
        && any_or(&toleration.key, &taint.key)
        && (exists || value == taint.value.as_deref().unwrap_or_default())
}

fn place(node: &Node) -> Place {
    let state = observe::node(node);
    let spec = node.spec.as_ref();
    let free = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    Place {
        is_ready: state.is_ready,
        is_cordoned: state.is_cordoned,
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
        // What cannot be read is no reason to refuse.
        room: free.map_or(Room::ENDLESS, |free| Room::of(free, Room::ENDLESS)),
    }
}

/// What pods that have a node hold of it.
fn held<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeMap<String, Room> {
    let mut held: BTreeMap<String, Room> = BTreeMap::new();
    for pod in pods {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let (Some(node), Some(spec)) = (node_name(pod), &pod.spec) else { continue };
        if !matches!(phase, Some("Succeeded" | "Failed")) {
            let sum = held.entry(node.to_owned()).or_default();
            *sum = std::mem::take(sum).with(requests(spec));
        }
    }
    held
}

fn requests(spec: &PodSpec) -> Room {
    let asked = spec.containers.iter().filter_map(|container| {
        let requests = container.resources.as_ref()?.requests.as_ref()?;
        Some(Room::of(requests, Room::default()))
    });
    asked.fold(Room::default(), Room::with)
}

impl Room {
    const ENDLESS: Self = Self { millicores: u64::MAX, bytes: u64::MAX, devices: BTreeMap::new() };

    fn of(amounts: &BTreeMap<String, Quantity>, without: Self) -> Self {
        let text = |name| amounts.get(name).map(|amount: &Quantity| amount.0.clone());
        let millicores = text("cpu").and_then(|text| CpuQuantity(text).millicores());
        let bytes = text("memory").and_then(|text| MemoryQuantity(text).bytes());
        Self {
            millicores: millicores.unwrap_or(without.millicores),
            bytes: bytes.unwrap_or(without.bytes),
            devices: devices(amounts),
        }
    }

    fn devices_of(&self, name: &str) -> u64 {
        self.devices.get(name).copied().unwrap_or_default()
    }

    fn with(self, other: Self) -> Self {
        let mut devices = self.devices;
        for (name, number) in other.devices {
            let sum = devices.entry(name).or_default();
            *sum = sum.saturating_add(number);
        }
        Self {
            devices,
            millicores: self.millicores.saturating_add(other.millicores),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    fn without(&self, other: &Self) -> Self {
        let left = |(name, number): (&String, &u64)| {
            (name.clone(), number.saturating_sub(other.devices_of(name)))
        };
        Self {
            devices: self.devices.iter().map(left).collect(),
            millicores: self.millicores.saturating_sub(other.millicores),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// What device plugins count: of their names alone, each belongs to a domain.
fn devices(amounts: &BTreeMap<String, Quantity>) -> BTreeMap<String, u64> {
    let device = |(name, amount): (&String, &Quantity)| {
        // Whole numbers, written as those of bytes are.
        let number = MemoryQuantity(amount.0.clone()).bytes().filter(|_| name.contains('/'))?;
        Some((name.clone(), number))
    };
    amounts.iter().filter_map(device).filter(|(_, number)| *number > 0).collect()
}

fn memory(bytes: u64) -> String {
    const UNITS: [(&str, u64); 2] = [("GiB", 1 << 30), ("MiB", 1 << 20)];
    let unit = UNITS.iter().find(|(_, unit)| bytes >= *unit);
    let (name, unit) = unit.unwrap_or(&UNITS[1]);
    format!("{} {name}", tenths_up(bytes, *unit))
}

/// With one decimal, rounded up: whoever frees as much as it says has enough.
fn tenths_up(amount: u64, unit: u64) -> String {
    let tenths = (u128::from(amount) * 10).div_ceil(u128::from(unit));
    if tenths.is_multiple_of(10) {
        (tenths / 10).to_string()
    } else {
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

/// Without what the scheduler says of pods that it could drive away.
fn first_sentence(said: &str) -> &str {
    said.split(" preemption:").next().unwrap_or(said).trim_end_matches('.')
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
