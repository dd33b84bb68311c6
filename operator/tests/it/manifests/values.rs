//! The chart's schema of its values. What it says of `httpStatistics.spec` is made of the definition of HttpStatistics, so
//! that Helm refuses what the API server would refuse, and also what it would drop without a word: misspelt fields.

use std::fs;

use kube::CustomResourceExt;
use operator::api::v1alpha1::HttpStatistics;
use serde_json::{Map, Value, json};

use crate::manifests::chart::DIRECTORY;

/// A schema as Kubernetes knows it → one as Helm does.
fn plain(schema: &Value) -> Value {
    let mut plain = Map::new();
    for (key, value) in schema.as_object().into_iter().flatten() {
        let value = match (key.as_str(), value) {
            ("items" | "additionalProperties", inner) => self::plain(inner),
            ("properties", Value::Object(properties)) => {
                plain.insert("additionalProperties".to_owned(), json!(false));
                properties
                    .iter()
                    .map(|(name, property)| (name.clone(), self::plain(property)))
                    .collect()
            }
            // Whole numbers that Kubernetes' types have as floating-point ones.
            ("minimum" | "maximum", Value::Number(number)) => {
                json!(serde_json::from_str::<i64>(&number.to_string().replace(".0", "")).unwrap())
            }
            ("x-kubernetes-list-type", _) if value == "set" => {
                plain.insert("uniqueItems".to_owned(), json!(true));
                continue;
            }
            ("x-kubernetes-int-or-string", _) => {
                plain.insert("type".to_owned(), json!(["integer", "string"]));
                continue;
            }
            // Defaults are the API server's to fill in; the rest says how it stores and merges.
            ("default" | "format" | "nullable", _) => continue,
            (extension, _) if extension.starts_with("x-kubernetes-") => continue,
            (_, value) => value.clone(),
        };
        plain.insert(key.clone(), value);
    }
    Value::Object(plain)
}

#[test]
fn the_schema_of_the_values_knows_every_field_of_the_resource() {
    let version = HttpStatistics::crd().spec.versions.remove(0);
    let schema = version.schema.unwrap().open_api_v3_schema.unwrap();
    let mut spec = plain(&serde_json::to_value(&schema.properties.unwrap()["spec"]).unwrap());
    // The chart fills in the image.
    spec.as_object_mut().unwrap().remove("required");

    let file = format!("{DIRECTORY}/values.schema.json");
    let checked_in = fs::read_to_string(&file).unwrap();
    let mut expected: Value = serde_json::from_str(&checked_in).unwrap();
    expected["properties"]["httpStatistics"]["properties"]["spec"] = spec;
    let expected = format!("{}\n", serde_json::to_string_pretty(&expected).unwrap());
    if std::env::var_os("SCOPE_HTTP_STATISTICS_WRITE").is_some() {
        fs::write(&file, &expected).unwrap();
        return;
    }
    assert!(
        checked_in == expected,
        "{file} is not what the types in operator/src/api say; write it anew with\n    \
         SCOPE_HTTP_STATISTICS_WRITE=1 cargo test -p scope-http-statistics-operator --test it"
    );
}
