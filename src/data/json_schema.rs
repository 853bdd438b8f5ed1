//! JSON Schemas that answers are to meet.
//!
//! A schema is data that someone may have downloaded: it reaches no network and no file, and its patterns are matched in linear time.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::source::Place;
use crate::Result;

/// Bytes of the largest pattern, compiled.
const LARGEST_PATTERN: usize = 1 << 20;

/// A schema that can be asked.
pub struct Schema(Validator);

impl Schema {
    /// Reads a schema of any draft; without `$schema` it is one of draft 2020-12.
    ///
    /// # Errors
    /// Bad input, at `place`: it is no schema; it refers to something outside of itself; a pattern with look-around or
    /// back-references, or a very large one.
    pub fn read(place: Place<'_>, schema: &Value) -> Result<Self> {
        let patterns = PatternOptions::regex().size_limit(LARGEST_PATTERN).dfa_size_limit(LARGEST_PATTERN);
        jsonschema::options().offline().with_pattern_options(patterns).build(schema).map(Self).map_err(|error| {
            let at = match error.instance_path().to_string() {
                top if top.is_empty() => String::new(),
                path => format!(" (at {path})"),
            };
            let problem = format!("`expect.json_schema` is no schema that can be used{at}: {error}");
            place.error(
                problem,
                "write a schema that stands by itself: what it refers to under \"$defs\", patterns without look-around",
            )
        })
    }

    /// Whether the answer, but for white space around it, is JSON that the schema allows.
    pub fn allows(&self, answer: &str) -> bool {
        serde_json::from_str(answer.trim()).is_ok_and(|value| self.0.is_valid(&value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(schema: Value) -> Result<Schema> {
        Schema::read(Place::line("data", 3), &schema)
    }

    #[test]
    fn an_answer_is_json_alone_that_the_schema_allows() {
        let schema = json!({
            "type": "object", "properties": { "name": { "type": "string", "pattern": "^[A-Z]" }, "age": { "type": "integer" } },
            "required": ["name"], "additionalProperties": false,
        });
        let schema = read(schema).unwrap();
        for (answer, allowed) in [
            ("{\"name\": \"Ada\", \"age\": 36}", true),
            (" {\"name\": \"Ada\"}\n", true),
            ("{\"name\": \"ada\"}", false),
            ("{\"age\": 36}", false),
            ("{\"name\": \"Ada\", \"age\": 36.5}", false),
            ("{\"name\": \"Ada\", \"town\": \"Rome\"}", false),
            ("Here it is: {\"name\": \"Ada\"}", false),
            ("{\"name\": \"Ada\"", false),
            ("", false),
        ] {
            assert_eq!(schema.allows(answer), allowed, "{answer}");
        }
    }

    #[test]
    fn a_schema_can_refer_to_itself_where_that_ends() {
        let tree = json!({ "$ref": "#/$defs/tree", "$defs": {
            "tree": { "type": "object", "required": ["leaf"], "properties": { "child": { "$ref": "#/$defs/tree" } } } } });
        let tree = read(tree).unwrap();
        assert!(tree.allows("{\"leaf\": 1, \"child\": {\"leaf\": 2}}"));
        assert!(!tree.allows("{\"leaf\": 1, \"child\": {}}"));
        // Deeper than any parser follows.
        assert!(!tree.allows(&"{\"leaf\": 1, \"child\": ".repeat(100_000)));
        // What leads back to itself without going deeper into the answer asks nothing, and ends too.
        for circle in [json!({ "$ref": "#" }), json!({ "allOf": [{ "$ref": "#" }] })] {
            assert!(read(circle).unwrap().allows("1"));
        }
    }

    #[test]
    fn what_is_no_schema_or_looks_outside_is_refused_with_its_line() {
        for (schema, needle) in [
            (json!({ "type": "objekt" }), "objekt"),
            (json!("object"), "object"),
            (json!({ "$ref": "https://example.com/schema.json" }), "example.com"),
            (json!({ "$ref": "file:///etc/passwd" }), "passwd"),
            (json!({ "$ref": "other.json" }), "other.json"),
            (json!({ "$ref": "#/$defs/none" }), "none"),
            (json!({ "$schema": "https://example.com/own", "type": "object" }), "example.com"),
            (json!({ "pattern": "(" }), "("),
            (json!({ "pattern": "(?=a)b" }), "(?=a)b"),
            (json!({ "pattern": "((a{100}){100}){100}" }), "a{100}"),
        ] {
            let error = read(schema.clone()).err().unwrap_or_else(|| panic!("{schema} is taken")).to_string();
            assert!(error.starts_with("data:3: `expect.json_schema` ") && error.contains(needle), "{schema}: {error}");
        }
    }

    /// A pattern on which an engine that goes back takes longer than anyone waits.
    #[test]
    fn a_pattern_takes_linear_time() {
        let schema = read(json!({ "type": "string", "pattern": "^(a+)+$" })).unwrap();
        let answer = format!("\"{}b\"", "a".repeat(50_000));
        let started = std::time::Instant::now();
        assert!(!schema.allows(&answer));
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
    }
}
