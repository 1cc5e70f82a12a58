//! Whether a JSON schema can be compiled in good time, and whether any finite value fits it.

use serde_json::Value;

/// Values that a schema may hold, counted with all that is inside them.
const VALUES_MAX: usize = 50_000;

/// Properties of one object: those that may be left out cost the compiler the square of their number.
const PROPERTIES_MAX: usize = 1_000;

/// Objects within objects.
const DEPTH_MAX: usize = 100;

/// Steps of the search for a finite value; a schema that takes more is left to the compiler.
const STEPS_MAX: usize = 100_000;

/// Refuses schemas that are too large and those that no finite value fits.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    let mut values = 0;
    measure(schema, 0, &mut values)?;
    let mut search = Search {
        root: schema,
        open: Vec::new(),
        steps: 0,
    };
    match search.ends(schema) {
        true => Ok(()),
        false => {
            Err("no value is finite that fits the schema: it asks for itself again without end".to_owned())
        }
    }
}

fn measure(schema: &Value, depth: usize, values: &mut usize) -> Result<(), String> {
    *values += 1;
    if *values > VALUES_MAX {
        return Err(format!("the schema holds more than {VALUES_MAX} values"));
    }
    if depth > DEPTH_MAX {
        return Err(format!("the schema is nested more than {DEPTH_MAX} deep"));
    }
    match schema {
        Value::Object(map) => {
            let properties = map.get("properties").and_then(Value::as_object);
            if let Some(many) = properties.filter(|p| p.len() > PROPERTIES_MAX) {
                return Err(format!(
                    "an object of the schema has {} properties, and {PROPERTIES_MAX} is the most",
                    many.len()
                ));
            }
            map.values()
                .try_for_each(|value| measure(value, depth + 1, values))
        }
        Value::Array(list) => list
            .iter()
            .try_for_each(|value| measure(value, depth + 1, values)),
        _ => Ok(()),
    }
}

struct Search<'a> {
    root: &'a Value,
    /// References that are being followed.
    open: Vec<&'a str>,
    steps: usize,
}

impl<'a> Search<'a> {
    /// Whether some finite value may fit; `true` where it cannot be told.
    fn ends(&mut self, schema: &'a Value) -> bool {
        self.steps += 1;
        let Some(map) = schema.as_object().filter(|_| self.steps < STEPS_MAX) else {
            return true;
        };
        let list = |key: &str| {
            map.get(key)
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice)
        };
        let reference = map.get("$ref").and_then(Value::as_str);
        if reference.is_some_and(|reference| !self.follow(reference)) {
            return false;
        }
        if !list("allOf").iter().all(|part| self.ends(part)) {
            return false;
        }
        for key in ["anyOf", "oneOf"] {
            let choices = list(key);
            if !choices.is_empty() && !choices.iter().any(|choice| self.ends(choice)) {
                return false;
            }
        }
        match map.get("type").and_then(Value::as_str) {
            Some("object") => list("required").iter().filter_map(Value::as_str).all(|name| {
                let property = map.get("properties").and_then(|properties| properties.get(name));
                property.is_none_or(|property| self.ends(property))
            }),
            Some("array") => {
                let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0);
                let items = map.get("items").filter(|_| least > 0);
                items.is_none_or(|items| self.ends(items))
            }
            _ => true,
        }
    }

    fn follow(&mut self, reference: &'a str) -> bool {
        if self.open.contains(&reference) {
            return false;
        }
        let Some(target) = reference
            .strip_prefix('#')
            .and_then(|pointer| self.root.pointer(pointer))
        else {
            return true;
        };
        if self.open.len() > DEPTH_MAX {
            return true;
        }
        self.open.push(reference);
        let ends = self.ends(target);
        self.open.pop();
        ends
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_asks_for_itself_without_end_is_refused() {
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } }),
            json!({ "type": "object", "properties": { "a": { "$ref": "#" } }, "required": ["a"] }),
            json!({ "type": "array", "items": { "$ref": "#" }, "minItems": 1 }),
            json!({ "anyOf": [{ "$ref": "#" }, { "allOf": [{ "type": "string" }, { "$ref": "#" }] }] }),
        ] {
            assert!(check(&schema).unwrap_err().contains("without end"), "{schema}");
        }
    }

    #[test]
    fn what_may_end_is_taken() {
        for schema in [
            json!({}),
            json!(true),
            json!({ "$ref": "elsewhere.json" }),
            json!({ "type": "object", "properties": { "a": { "$ref": "#" } } }),
            json!({ "type": "array", "items": { "$ref": "#" } }),
            json!({ "anyOf": [{ "$ref": "#" }, { "type": "null" }] }),
            json!({ "type": "object", "required": ["a", "b"], "properties": { "a": { "anyOf": [{ "type": "null" }, { "$ref": "#" }] } } }),
        ] {
            assert_eq!(check(&schema), Ok(()), "{schema}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let many: serde_json::Map<_, _> = (0..1_001).map(|n| (n.to_string(), json!({}))).collect();
        assert!(
            check(&json!({ "properties": many }))
                .unwrap_err()
                .contains("1001 properties")
        );
        let deep = (0..102).fold(json!({}), |inner, _| json!({ "items": inner }));
        assert!(check(&deep).unwrap_err().contains("deep"));
        assert!(
            check(&json!({ "enum": vec![0; 50_000] }))
                .unwrap_err()
                .contains("values")
        );
    }
}
