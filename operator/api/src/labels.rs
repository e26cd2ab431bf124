//! Labels and annotations: maps from text to text, bounded.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Labels that objects or nodes must have.
pub(crate) fn selector_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 63},
    })
}

/// Annotations, whose values may be long.
pub(crate) fn annotations_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}
