//! A client for schema registries that speak Confluent's API: Confluent's own, Karapace,
//! Apicurio, Redpanda.
//!
//! It knows subjects, ids and schemas as text; the codec of `unprompt-schemas` interprets them.
//!
//! The library for this purpose, schema_registry_converter 6, would only help with the requests,
//! which are few. Its errors contain the HTTP status only as part of a sentence, so that an unknown
//! id (a dead letter), a refusal (the service stops) and an unavailable registry (try again) look
//! the same. It also accepts responses of any length.

mod http;

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use unprompt_schemas::registry::{Registry, RegistryError};

use crate::StreamError;
use crate::config::RegistryConfig;
use http::{Http, Request, RequestFailure};

/// A registry with one or several addresses.
#[derive(Debug)]
pub struct SchemaRegistry {
    http: Http,
    may_register: bool,
}

/// The place of a schema in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Registered {
    pub id: u32,
    /// Within its subject.
    pub version: u32,
}

/// The registry's verdict on a schema compared with the newest version of its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compatibility {
    /// Compatible at the level that is set for the subject.
    Compatible,
    /// Incompatible, with the reasons as far as the registry gives them.
    Incompatible(Vec<String>),
}

#[derive(Deserialize)]
struct Id {
    id: u32,
}

#[derive(Deserialize)]
struct Stored {
    schema: String,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    references: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct CompatibilityAnswer {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

impl SchemaRegistry {
    /// Makes a client of the configured registry, if there is one. It sends no request yet.
    ///
    /// # Errors
    ///
    /// [`StreamError::Config`] for an address, credentials or a certificate that cannot be used.
    pub fn new(section: &RegistryConfig) -> Result<Option<Self>, StreamError> {
        if section.url.is_none() {
            return Ok(None);
        }
        let http = Http::new(section).map_err(StreamError::Config)?;
        Ok(Some(Self { http, may_register: section.register }))
    }

    /// Checks that a schema registry answers at the configured address.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    pub fn check(&self) -> Result<(), RegistryError> {
        let what = "the list of schema types";
        let request = Request::get(&["schemas", "types"]);
        self.ask::<Vec<String>>(&request).map(drop).map_err(|failure| general(failure, what))
    }

    /// Registers a schema under a subject, whatever `register` in `[registry]` says. A schema that
    /// is already there keeps its id.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Incompatible`], [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let registered = self.ask::<Id>(&Request::post(&["subjects", subject, "versions"], body(schema)));
        registered.map(|answer| answer.id).map_err(|failure| match failure {
            RequestFailure::Conflict(reason) => {
                let (subject, record) = (subject.to_owned(), name_of(schema));
                RegistryError::Incompatible { subject, record, reason }
            }
            failure => general(failure, subject),
        })
    }

    /// Looks up exactly this schema under a subject; `None` if it is not there.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    pub fn lookup(&self, subject: &str, schema: &str) -> Result<Option<Registered>, RegistryError> {
        match self.ask(&Request::post(&["subjects", subject], body(schema))) {
            Ok(registered) => Ok(Some(registered)),
            Err(RequestFailure::Missing(_)) => Ok(None),
            Err(failure) => Err(general(failure, subject)),
        }
    }

    /// Checks whether a schema may follow the newest version under a subject. Any schema may if
    /// there is none yet.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    pub fn compatibility(&self, subject: &str, schema: &str) -> Result<Compatibility, RegistryError> {
        let path = ["compatibility", "subjects", subject, "versions", "latest"];
        let request = Request::post(&path, body(schema)).with_query("verbose=true");
        match self.ask::<CompatibilityAnswer>(&request) {
            Ok(CompatibilityAnswer { is_compatible: true, .. }) | Err(RequestFailure::Missing(_)) => {
                Ok(Compatibility::Compatible)
            }
            Ok(CompatibilityAnswer { messages, .. }) => Ok(Compatibility::Incompatible(messages)),
            Err(failure) => Err(general(failure, subject)),
        }
    }

    /// Sets which changes the registry accepts under a subject, for example `FULL_TRANSITIVE`.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    pub fn set_compatibility(&self, subject: &str, level: &str) -> Result<(), RegistryError> {
        let set = self.ask::<Value>(&Request::put(&["config", subject], json!({"compatibility": level})));
        set.map(drop).map_err(|failure| general(failure, subject))
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request<'_>) -> Result<T, RequestFailure> {
        let answer = self.http.ask(request)?;
        serde_json::from_slice(&answer).map_err(|error| {
            RequestFailure::Away(format!("its answer is not that of a schema registry: {error}"))
        })
    }
}

impl Registry for SchemaRegistry {
    fn id_of(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        if self.may_register {
            return self.register(subject, schema);
        }
        let not_registered =
            || RegistryError::NotRegistered { subject: subject.to_owned(), record: name_of(schema) };
        self.lookup(subject, schema)?.map(|registered| registered.id).ok_or_else(not_registered)
    }

    fn schema_of(&self, id: u32) -> Result<String, RegistryError> {
        // Registries use positive 32-bit numbers: anything above is not an id and need not be
        // requested.
        if i32::try_from(id).is_err() {
            return Err(RegistryError::UnknownId { id });
        }
        let number = id.to_string();
        match self.ask::<Stored>(&Request::get(&["schemas", "ids", &number])) {
            Ok(stored) => stored.avro().map_err(|reason| RegistryError::Unusable { id, reason }),
            Err(RequestFailure::Missing(_)) => Err(RegistryError::UnknownId { id }),
            Err(RequestFailure::TooLong(reason)) => Err(RegistryError::Unusable { id, reason }),
            Err(failure) => Err(general(failure, &format!("the schema with the id {id}"))),
        }
    }
}

impl Stored {
    fn avro(self) -> Result<String, String> {
        match self.kind.as_deref() {
            None | Some("AVRO") => {}
            Some(other) => return Err(format!("it is {other}, not Avro")),
        }
        match self.references {
            Some(references) if !references.is_empty() => Err("it refers to other schemas".to_owned()),
            _ => Ok(self.schema),
        }
    }
}

impl fmt::Display for Compatibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compatible => f.write_str("compatible"),
            Self::Incompatible(reasons) if reasons.is_empty() => f.write_str("incompatible"),
            Self::Incompatible(reasons) => write!(f, "incompatible: {}", reasons.join("; ")),
        }
    }
}

fn body(schema: &str) -> Value {
    // A schema without a type is AVRO; registries older than types would refuse the field.
    json!({"schema": schema})
}

fn general(failure: RequestFailure, what: &str) -> RegistryError {
    match failure {
        RequestFailure::Away(reason) => RegistryError::Unreachable { reason },
        RequestFailure::Missing(reason)
        | RequestFailure::Conflict(reason)
        | RequestFailure::TooLong(reason)
        | RequestFailure::Refused(reason) => RegistryError::Refused { what: what.to_owned(), reason },
    }
}

/// Returns the name that a schema gives its type.
fn name_of(schema: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(schema).ok();
    parsed
        .and_then(|schema| schema["name"].as_str().map(str::to_owned))
        .unwrap_or_else(|| "schema".to_owned())
}
