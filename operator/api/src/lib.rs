//! The nouns users write: the custom resources, their schema, defaults and CEL rules.
