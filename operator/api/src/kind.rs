//! The kinds of objects that naru knows.

use serde_json::{Map, Value};

use crate::crd;
use crate::problem::{Finding, ProblemReason};

/// The `apiVersion` of every kind.
const API_VERSION: &str = "naru.dev/v1alpha1";

/// The kinds that are known, as `apiVersion` and `kind`, in the order of [`crate::crds`].
pub const KINDS: [(&str, &str); 3] =
    [(API_VERSION, "ModelDeployment"), (API_VERSION, "Tenant"), (API_VERSION, "PowerBudget")];

/// A kind that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ModelDeployment,
    Tenant,
    PowerBudget,
}

/// In the order of [`KINDS`].
const ALL: [Kind; 3] = [Kind::ModelDeployment, Kind::Tenant, Kind::PowerBudget];

impl Kind {
    /// Which kind a document says it is.
    pub(crate) fn of(document: &Map<String, Value>) -> Result<Self, Finding> {
        let field = |name| document.get(name).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (field("apiVersion"), field("kind"));
        if let Some(place) = KINDS.iter().position(|known| *known == (version, kind)) {
            return Ok(ALL[place]);
        }
        let known: Vec<_> =
            KINDS.iter().map(|(version, kind)| format!("{version} {kind}")).collect();
        let (path, what) = if KINDS.iter().any(|known| known.1 == kind) {
            ("apiVersion", format!("{kind} has no version {version:?}"))
        } else {
            ("kind", format!("{kind:?} is not known to this version"))
        };
        let message = format!("{what}; known: {}", known.join(", "));
        Err(Finding::new(path, ProblemReason::UnknownKind, message))
    }

    /// Whether two namespaces may each have an object of one name.
    pub(crate) fn is_namespaced(self) -> bool {
        matches!(self, Self::ModelDeployment)
    }
}

/// The openAPIV3Schema of each kind.
pub(crate) struct Schemas([Value; 3]);

impl Schemas {
    pub(crate) fn new() -> Self {
        let schema = |crd: Value| {
            let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema");
            schema.cloned().expect("a generated definition has a schema")
        };
        Self(crd::crds().map(schema))
    }

    pub(crate) fn of(&self, kind: Kind) -> &Value {
        &self.0[kind as usize]
    }
}
