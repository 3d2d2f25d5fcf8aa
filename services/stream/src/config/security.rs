//! `[kafka.security]`: encryption and authentication, checks for contradictions, and the client
//! properties that follow.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Secret;

/// The protocol of a broker's listener, by librdkafka's and Kafka's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl Protocol {
    /// Returns the name as it is written in our configuration and in librdkafka's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    fn is_encrypted(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// The authentication mechanism, by the name that SASL registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// Its token comes from `[kafka.properties]` (`sasl.oauthbearer.*`).
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// Encryption and authentication of the connection to Kafka.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    pub protocol: Protocol,
    pub mechanism: Option<Mechanism>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// PEM: the authorities that may have signed the broker's certificate; by default the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM: our certificate and its key, if the broker asks for one (mutual TLS).
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// The password of an encrypted key.
    pub key_password: Option<Secret>,
    /// True if the broker's certificate must name the requested host.
    pub verify_hostname: bool,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            protocol: Protocol::Plaintext,
            mechanism: None,
            username: None,
            password: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            key_password: None,
            verify_hostname: true,
        }
    }
}

impl Security {
    /// Returns librdkafka's properties; none if nothing is configured.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        let protocol = (self.protocol != Protocol::default()).then(|| self.protocol.name().to_owned());
        let unverified = (self.protocol.is_encrypted() && !self.verify_hostname).then(|| "none".to_owned());
        let given = [
            ("security.protocol", protocol),
            ("sasl.mechanisms", self.mechanism.map(|mechanism| mechanism.name().to_owned())),
            ("sasl.username", self.username.clone()),
            ("sasl.password", secret(&self.password)),
            ("ssl.ca.location", path(&self.ca_file)),
            ("ssl.certificate.location", path(&self.certificate_file)),
            ("ssl.key.location", path(&self.key_file)),
            ("ssl.key.password", secret(&self.key_password)),
            ("ssl.endpoint.identification.algorithm", unverified),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Returns whether credentials would travel unencrypted to a host that is not this one.
    pub fn is_exposed(&self, brokers: &str) -> bool {
        self.protocol == Protocol::SaslPlaintext && !brokers.split(',').all(is_loopback)
    }

    /// Finds settings that contradict each other, and files that are missing. `properties` are the
    /// user's own, which may supply the rest.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to do.
    pub fn check(&self, properties: &BTreeMap<String, Secret>) -> Result<(), String> {
        self.check_sasl(properties)?;
        self.check_tls()?;
        let files = [
            ("ca_file", &self.ca_file),
            ("certificate_file", &self.certificate_file),
            ("key_file", &self.key_file),
        ];
        files.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?))).try_for_each(readable)
    }

    fn check_sasl(&self, properties: &BTreeMap<String, Secret>) -> Result<(), String> {
        let mechanism = ("mechanism", self.mechanism.is_some());
        let who = [("username", self.username.is_some()), ("password", self.password.is_some())];
        if !self.protocol.has_sasl() {
            let stray = [mechanism, who[0], who[1]];
            return none_of(stray, "SASL, which is off; set protocol = \"sasl_ssl\", or leave it out");
        }
        match self.mechanism {
            Some(Mechanism::OauthBearer) => none_of(
                who,
                "mechanisms other than OAUTHBEARER; configure the source of its token in \
                 [kafka.properties], sasl.oauthbearer.*",
            ),
            Some(mechanism) => both_of(who, mechanism, properties),
            None if properties.keys().any(|name| name.starts_with("sasl.mechanism")) => Ok(()),
            None => Err(format!(
                "[kafka.security] protocol = {:?} needs a mechanism; set it to SCRAM-SHA-512, \
                 SCRAM-SHA-256, PLAIN or OAUTHBEARER, whichever the broker uses",
                self.protocol.name()
            )),
        }
    }

    fn check_tls(&self) -> Result<(), String> {
        let (certificate, key) = (self.certificate_file.is_some(), self.key_file.is_some());
        if !self.protocol.is_encrypted() {
            let stray =
                [("ca_file", self.ca_file.is_some()), ("certificate_file", certificate), ("key_file", key)];
            return none_of(
                stray,
                "TLS, which is off; set protocol = \"ssl\" or \"sasl_ssl\", or leave it out",
            );
        }
        let pair = "[kafka.security] certificate_file and key_file belong together; set both, or neither";
        if certificate != key {
            return Err(pair.to_owned());
        }
        none_of(
            [("key_password", self.key_password.is_some() && !key)],
            "a key_file; set that too, or leave it out",
        )
    }
}

/// Refuses a username or password that is given nowhere.
fn both_of(
    who: [(&str, bool); 2],
    mechanism: Mechanism,
    properties: &BTreeMap<String, Secret>,
) -> Result<(), String> {
    let is_missing = |(key, given): &(&str, bool)| !given && !properties.contains_key(&format!("sasl.{key}"));
    let Some((key, _)) = who.into_iter().find(is_missing) else { return Ok(()) };
    let file = if key == "password" { ", or password_file," } else { "" };
    let name = mechanism.name();
    Err(format!("[kafka.security] mechanism = {name:?} needs a {key}; set {key}{file} as well"))
}

/// Refuses a given setting that has no use without `what`.
fn none_of<const N: usize>(given: [(&str, bool); N], what: &str) -> Result<(), String> {
    match given.into_iter().find(|(_, given)| *given) {
        Some((key, _)) => Err(format!("[kafka.security] {key} is for {what}")),
        None => Ok(()),
    }
}

/// Checks that a file can be read, because librdkafka names neither key nor file.
fn readable((key, path): (&str, &Path)) -> Result<(), String> {
    let opened = File::open(path).and_then(|file| file.metadata());
    match opened {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(format!("[kafka.security] {key}: {} is not a file", path.display())),
        Err(error) => Err(format!("[kafka.security] {key}: {} cannot be read: {error}", path.display())),
    }
}

fn is_loopback(broker: &str) -> bool {
    let broker = broker.trim();
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unencrypted_credentials_to_a_remote_host_count_as_exposed() {
        let sasl = Security { protocol: Protocol::SaslPlaintext, ..Security::default() };
        for here in ["127.0.0.1:9092", "localhost:9092", "[::1]:9092", "127.0.0.1:1, localhost:2"] {
            assert!(!sasl.is_exposed(here), "{here}");
        }
        for elsewhere in ["kafka:9092", "10.0.0.1:9092", "localhost:1,kafka:2"] {
            assert!(sasl.is_exposed(elsewhere), "{elsewhere}");
        }
        let encrypted = Security { protocol: Protocol::SaslSsl, ..Security::default() };
        assert!(!encrypted.is_exposed("kafka:9092"));
    }

    #[test]
    fn default_security_settings_set_no_property() {
        assert_eq!(Security::default().properties(), []);
    }
}
