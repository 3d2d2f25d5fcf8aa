//! A client of a schema registry that speaks Confluent's API: Confluent's own, Karapace, Apicurio, Redpanda.
//!
//! It knows subjects, ids and schemas as text; what they say is for the codec of `unprompt-schemas`. Of the library for this,
//! schema_registry_converter 6, only the requests would be of use, and they are few: its errors hold the HTTP status in a sentence
//! alone, so that an unknown id (a dead letter), a refusal (the service stops) and a registry that is away (try again) look the
//! same; and it takes answers of any length.

mod http;

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use unprompt_schemas::registry::{Registry, RegistryError};

use crate::StreamError;
use crate::config::Registry as Section;
use http::{Failure, Http, Request};

/// A registry, or several addresses of one.
#[derive(Debug)]
pub struct SchemaRegistry {
    http: Http,
    may_register: bool,
}

/// Where a schema stands in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Registered {
    pub id: u32,
    /// Within its subject.
    pub version: u32,
}

/// What the registry says of a schema beside the newest version of its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compatibility {
    /// By the compatibility level that is set for the subject.
    Compatible,
    /// With what stands in the way, as far as the registry tells.
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
struct Verdict {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

impl SchemaRegistry {
    /// A client of the configured registry, where one is; nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`StreamError::Config`] for an address, credentials or a certificate that cannot be used.
    pub fn new(section: &Section) -> Result<Option<Self>, StreamError> {
        if section.url.is_none() {
            return Ok(None);
        }
        let http = Http::new(section).map_err(StreamError::Config)?;
        Ok(Some(Self { http, may_register: section.register }))
    }

    /// Whether a schema registry answers at the configured address.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    pub fn check(&self) -> Result<(), RegistryError> {
        let what = "the list of schema types";
        let request = Request::get(&["schemas", "types"]);
        self.ask::<Vec<String>>(&request).map(drop).map_err(|failure| general(failure, what))
    }

    /// Registers a schema under a subject, whatever [registry] register says; one that is there keeps its id.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Incompatible`], [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let registered = self.ask::<Id>(&Request::post(&["subjects", subject, "versions"], body(schema)));
        registered.map(|answer| answer.id).map_err(|failure| match failure {
            Failure::Conflict(reason) => {
                let (subject, record) = (subject.to_owned(), name_of(schema));
                RegistryError::Incompatible { subject, record, reason }
            }
            failure => general(failure, subject),
        })
    }

    /// Where exactly this schema stands under a subject; none where it does not.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    pub fn lookup(&self, subject: &str, schema: &str) -> Result<Option<Registered>, RegistryError> {
        match self.ask(&Request::post(&["subjects", subject], body(schema))) {
            Ok(registered) => Ok(Some(registered)),
            Err(Failure::Missing(_)) => Ok(None),
            Err(failure) => Err(general(failure, subject)),
        }
    }

    /// Whether a schema may follow the newest version under a subject; anything may where there is none yet.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    pub fn compatibility(&self, subject: &str, schema: &str) -> Result<Compatibility, RegistryError> {
        let path = ["compatibility", "subjects", subject, "versions", "latest"];
        let request = Request::post(&path, body(schema)).with_query("verbose=true");
        match self.ask::<Verdict>(&request) {
            Ok(Verdict { is_compatible: true, .. }) | Err(Failure::Missing(_)) => {
                Ok(Compatibility::Compatible)
            }
            Ok(Verdict { messages, .. }) => Ok(Compatibility::Incompatible(messages)),
            Err(failure) => Err(general(failure, subject)),
        }
    }

    /// Sets which changes the registry takes under a subject, for example `FULL_TRANSITIVE`.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    pub fn set_compatibility(&self, subject: &str, level: &str) -> Result<(), RegistryError> {
        let set = self.ask::<Value>(&Request::put(&["config", subject], json!({"compatibility": level})));
        set.map(drop).map_err(|failure| general(failure, subject))
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request<'_>) -> Result<T, Failure> {
        let answer = self.http.ask(request)?;
        serde_json::from_slice(&answer)
            .map_err(|error| Failure::Away(format!("its answer is not that of a schema registry: {error}")))
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
        // Registries count in positive numbers of 32 bits: what is above is no id and need not be asked for.
        if i32::try_from(id).is_err() {
            return Err(RegistryError::UnknownId { id });
        }
        let number = id.to_string();
        match self.ask::<Stored>(&Request::get(&["schemas", "ids", &number])) {
            Ok(stored) => stored.avro().map_err(|reason| RegistryError::Unusable { id, reason }),
            Err(Failure::Missing(_)) => Err(RegistryError::UnknownId { id }),
            Err(Failure::TooLong(reason)) => Err(RegistryError::Unusable { id, reason }),
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
    // AVRO is the type of what names none; registries older than types would refuse the name.
    json!({"schema": schema})
}

fn general(failure: Failure, what: &str) -> RegistryError {
    match failure {
        Failure::Away(reason) => RegistryError::Unreachable { reason },
        Failure::Missing(reason)
        | Failure::Conflict(reason)
        | Failure::TooLong(reason)
        | Failure::Refused(reason) => RegistryError::Refused { what: what.to_owned(), reason },
    }
}

/// The name that a schema gives its type.
fn name_of(schema: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(schema).ok();
    parsed
        .and_then(|schema| schema["name"].as_str().map(str::to_owned))
        .unwrap_or_else(|| "schema".to_owned())
}
