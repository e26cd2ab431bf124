"""Whether what was written for an earlier schema is still taken and means the same: of definitions, of charts' values.

Each fault is a line that begins with the path at fault. What is not known to be harmless is one: a keyword that is not
judged here must stay as it was.
"""

import re

# Words for people, and what is put in its places before.
PROSE = {"$schema", "$comment", "title", "description", "example", "externalDocs", "definitions"}
# Judged one by one, below.
STRUCTURE = {"properties", "required", "additionalProperties", "items", "default", "x-kubernetes-validations"}
LOWER_BOUNDS = {"minimum", "minLength", "minItems", "minProperties"}
UPPER_BOUNDS = {"maximum", "maxLength", "maxItems", "maxProperties"}
# Without them more is taken.
MAY_GO = {"enum", "const", "pattern", "multipleOf", "exclusiveMinimum", "exclusiveMaximum", "uniqueItems"}
MAY_GO |= LOWER_BOUNDS | UPPER_BOUNDS
# Off is as good as not there.
SWITCHES = {"uniqueItems", "nullable", "exclusiveMinimum", "exclusiveMaximum"}
SWITCHES |= {"x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"}
# With them more is taken.
MAY_COME = {"nullable", "x-kubernetes-preserve-unknown-fields"}
# A rule that holds wherever a property is not given has this among its alternatives.
ABSENT = re.compile(r"!has\(self((?:\.\w+)+)\)")


def definitions(old, new):
    """The faults of definitions (CustomResourceDefinitions, by name) beside earlier ones."""
    for name, before in old.items():
        if name in new:
            yield from definition(name, before["spec"], new[name]["spec"])
        else:
            yield f"{name}: is gone"


def definition(name, old, new):
    for part in sorted((old.keys() | new.keys()) - {"names", "versions"}):
        yield from same(f"{name}: {part}", old.get(part), new.get(part))
    for part, was in old["names"].items():
        now = new["names"].get(part)
        if isinstance(was, list):
            yield from (f"{name}: {part} {each} is gone" for each in was if each not in (now or []))
        else:
            yield from same(f"{name}: {part}", was, now)
    versions = {version["name"]: version for version in new["versions"]}
    for version in old["versions"]:
        at = f"{name}/{version['name']}"
        if version["name"] in versions:
            yield from a_version(at, version, versions[version["name"]])
        else:
            yield f"{at}: is gone"


def a_version(at, old, new):
    for part in ("served", "storage"):
        yield from same(f"{at}: {part}", old[part], new[part])
    for kind, was in old.get("subresources", {}).items():
        yield from same(f"{at}: subresource {kind}", was, new.get("subresources", {}).get(kind))
    columns = [essence(column) for column in new.get("additionalPrinterColumns", [])]
    for column in old.get("additionalPrinterColumns", []):
        if essence(column) not in columns:
            yield f"{at}: column {column['name']} is gone, or shows something else"
    for field in old.get("selectableFields", []):
        if field not in new.get("selectableFields", []):
            yield f"{at}: selectable field {field['jsonPath']} is gone"
    # What a definition does not name is not kept.
    yield from schema(at, *(version["schema"]["openAPIV3Schema"] for version in (old, new)), closed=True)


def values(at, old, new):
    """The faults of a chart's values.schema.json beside an earlier one."""
    old, new = (resolved(each, each.get("definitions", {})) for each in (old, new))
    yield from schema(at, old, new, closed=False)


def schema(at, old, new, closed):
    """The faults of a schema beside an earlier one; `closed`: what it does not name is not there."""
    for keyword in sorted((old.keys() | new.keys()) - PROSE - STRUCTURE):
        was, now = old.get(keyword), new.get(keyword)
        if not widened(keyword, was, now):
            yield from same(f"{at}: {keyword}", was, now)
    if not keeps_default(old.get("default"), new.get("default"), old):
        yield from same(f"{at}: default", old.get("default"), new.get("default"))
    for name in sorted(set(new.get("required", [])) - set(old.get("required", []))):
        if "default" not in new.get("properties", {}).get(name, {}):
            yield f"{at}: {name} is newly required"
    yield from properties(at, old, new, closed)
    yield from rules(at, old, new)
    if "items" in old and "items" in new:
        yield from schema(f"{at}[]", old["items"], new["items"], closed)
    else:
        yield from same(f"{at}: items", old.get("items"), new.get("items"))


def properties(at, old, new, closed):
    before, after = old.get("properties", {}), new.get("properties", {})
    others_before, others_after = others(old, closed), others(new, closed)
    for name, was in before.items():
        below = f"{at}.{name}"
        yield from schema(below, was, after[name], closed) if name in after else [f"{below}: is gone"]
    if others_before is not False:
        yield from (f"{at}.{name}: is new where any name was allowed" for name in after if name not in before)
    if isinstance(others_before, dict) and isinstance(others_after, dict):
        yield from schema(f"{at}.*", others_before, others_after, closed)
    elif others_before is not False and others_after is not True:
        yield f"{at}: not every name is allowed any more"


def others(schema, closed):
    """What properties without a name of their own may be: nothing (False), anything (True), or what a schema says."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return True
    found = schema.get("additionalProperties", not closed)
    return True if found == {} else found


def rules(at, old, new):
    """Rules that objects of before may break: all new ones, but for those that speak of what those do not have."""
    known = [judged(rule) for rule in old.get("x-kubernetes-validations", [])]
    for rule in new.get("x-kubernetes-validations", []):
        if judged(rule) not in known and not is_of_what_is_new(rule["rule"], old, new):
            yield f"{at}: rule is new, or another: {rule['rule']}"


def judged(rule):
    return {key: value for key, value in rule.items() if key in ("rule", "optionalOldSelf")}


def is_of_what_is_new(rule, old, new):
    """Whether a rule holds as long as some property is not given that was not there before, nor comes by default."""
    if len(at_top(rule, "?")) > 1:  # a choice, of which the alternatives are a part
        return False
    paths = [match[1].split(".")[1:] for each in at_top(rule, "||") if (match := ABSENT.fullmatch(each))]
    return any(is_new(path, old, new) and can_be_asked_for(path, paths, new) for path in paths)


def is_new(path, old, new):
    """Whether there was no property at the path before, and nothing puts one there unasked."""
    wanted = found(path, new)
    defaults = [found(path[:end], new).get("default", {}) for end in range(len(path))] if wanted else []
    is_filled_in = any(name in default for name, default in zip(path, defaults, strict=False))
    return wanted is not None and "default" not in wanted and not is_filled_in and found(path, old) is None


def can_be_asked_for(path, alternatives, new):
    """Whether everything above the path always exists, or that it does not is an alternative of the rule too."""

    def exists(above):
        *parents, name = above
        return "default" in found(above, new) or name in found(parents, new).get("required", [])

    return all(path[:end] in alternatives or exists(path[:end]) for end in range(1, len(path)))


def found(path, schema):
    """The schema of the property at a path of names, if there is one."""
    for name in path:
        schema = schema and schema.get("properties", {}).get(name)
    return schema


def at_top(rule, operator):
    """The parts of an expression that an operator joins, outside of all brackets and quotes."""
    parts, depth, quote, start = [], 0, None, 0
    for index, character in enumerate(rule):
        if quote:
            quote = None if character == quote and rule[index - 1] != "\\" else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and rule.startswith(operator, index):
            parts.append(rule[start:index].strip())
            start = index + len(operator)
    return [*parts, rule[start:].strip()]


def widened(keyword, was, now):
    """Whether a keyword takes at least what it took."""
    if keyword in SWITCHES:
        was, now = was or None, now or None
    if was == now:
        return True
    if was is None:
        return keyword in MAY_COME
    if now is None:
        return keyword in MAY_GO
    if keyword in LOWER_BOUNDS:
        return now <= was
    if keyword in UPPER_BOUNDS:
        return now >= was
    if keyword in ("type", "enum"):
        return all(each in listed(now) for each in listed(was))
    return False


def keeps_default(was, now, old):
    """Whether what is not given is as before; a default may grow by properties that were not there."""
    if not isinstance(was, dict) or not isinstance(now, dict):
        return was == now
    known = old.get("properties", {})
    kept = all(name in now and keeps_default(was[name], now[name], known.get(name, {})) for name in was)
    return kept and not any(name in known for name in now if name not in was)


def resolved(part, definitions):
    """The schema with what it refers to in the places of the references."""
    if isinstance(part, list):
        return [resolved(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return resolved(definitions[part["$ref"].removeprefix("#/definitions/")], definitions)
    return {key: resolved(value, definitions) for key, value in part.items()}


def same(at, was, now):
    if was != now:
        yield f"{at} was {shown(was)}, is {shown(now)}"


def shown(value):
    return "nothing" if value is None else value


def essence(column):
    return {key: value for key, value in column.items() if key != "description"}


def listed(value):
    return value if isinstance(value, list) else [value]


