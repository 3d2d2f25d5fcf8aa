//! An Apache Kafka with authentication: TLS, SASL and access control lists, with a listener for
//! each mechanism.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;

use tempfile::TempDir;
use unprompt_test_guarded::free_address;

use crate::Kafka;
use crate::certificates::{Authority, Certificate};
use crate::tokens::Issuer;

/// A user known by SCRAM.
pub const SCRAM_USER: (&str, &str) = ("alice", "alice-knows-5d1c");
/// Another user known by SCRAM, whose rights [`SecureKafka::forbid_writing`] limits.
pub const LIMITED_USER: (&str, &str) = ("lena", "lena-knows-88b2");
/// A user known by PLAIN.
pub const PLAIN_USER: (&str, &str) = ("bob", "bob-knows-c07e");

const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
const PLAIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";
const BEARER: &str = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required";
const VALIDATOR: &str = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler";

/// The broker and its listeners.
#[derive(Debug)]
pub struct SecureKafka {
    kafka: Kafka,
    listeners: Listeners,
    /// The authority of the broker's certificate, which is valid for 127.0.0.1 and no other name.
    pub authority: Authority,
    /// An authority that signed nothing.
    pub stranger: Authority,
    /// A certificate that the broker accepts for mutual TLS.
    pub client: Certificate,
    /// The issuer whose tokens the broker accepts at [`SecureKafka::bearer`].
    pub issuer: Issuer,
}

#[derive(Clone, Copy, Debug)]
struct Listeners {
    plain: SocketAddr,
    controller: SocketAddr,
    secure: SocketAddr,
    sasl: SocketAddr,
    mutual: SocketAddr,
    bearer: SocketAddr,
    brief: SocketAddr,
}

impl SecureKafka {
    /// The broker shared by the tests of a process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<SecureKafka> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn start() -> Self {
        let data = TempDir::new().expect("a temporary folder");
        let folder = data.path();
        let (authority, stranger) = (Authority::new(folder, "authority"), Authority::new(folder, "stranger"));
        let broker = authority.issue("broker", "IP:127.0.0.1");
        let client = authority.issue("client", "DNS:client");
        let issuer = Issuer::new(folder);
        let listeners = Listeners::free();
        let write = |name: &str, text: String| {
            fs::write(folder.join(name), text).expect("a file of the broker's can be written");
        };
        write("controller-port", listeners.controller.port().to_string());
        write("format-arguments", users());
        write("java-options", format!("{}\n", issuer.java_option()));
        write("extra.properties", properties(&listeners, &authority.file, &broker.store, &issuer));
        let kafka = Kafka::started(Kafka::on(data, listeners.plain).throwing_away());
        Self { kafka, listeners, authority, stranger, client, issuer }
    }

    /// Neither TLS nor SASL; every client may do anything here.
    pub fn plaintext(&self) -> String {
        self.kafka.brokers()
    }

    /// TLS with SCRAM or PLAIN.
    pub fn sasl_ssl(&self) -> String {
        self.listeners.secure.to_string()
    }

    /// Without TLS: SCRAM, and OAUTHBEARER with unsigned tokens.
    pub fn sasl_plaintext(&self) -> String {
        self.listeners.sasl.to_string()
    }

    /// TLS with a client certificate.
    pub fn mutual_tls(&self) -> String {
        self.listeners.mutual.to_string()
    }

    /// OAUTHBEARER with tokens of [`SecureKafka::issuer`].
    pub fn bearer(&self) -> String {
        self.listeners.bearer.to_string()
    }

    /// SCRAM without TLS, with frequent re-authentication.
    pub fn brief(&self) -> String {
        self.listeners.brief.to_string()
    }

    /// Adds a user known by SCRAM-SHA-512.
    pub fn add_user(&self, (user, password): (&str, &str)) {
        self.configure(user, "--add-config", &format!("SCRAM-SHA-512=[password={password}]"));
    }

    /// Removes the user.
    pub fn remove_user(&self, user: &str) {
        self.configure(user, "--delete-config", "SCRAM-SHA-512");
    }

    fn configure(&self, user: &str, what: &str, mechanism: &str) {
        let broker = self.plaintext();
        let to = ["--bootstrap-server", &broker, "--alter", "--entity-type", "users", "--entity-name", user];
        let done = Kafka::tool("kafka.admin.ConfigCommand", &[&to[..], &[what, mechanism]].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Denies [`LIMITED_USER`] writing to a topic.
    pub fn forbid_writing(&self, topic: &str) {
        self.forbid("Write", &["--topic", topic]);
    }

    /// Denies [`LIMITED_USER`] creating a topic, and with it any other.
    pub fn forbid_creating(&self, topic: &str) {
        self.forbid("Create", &["--topic", topic]);
        self.forbid("Create", &["--cluster"]);
    }

    /// Denies [`LIMITED_USER`] an operation, and allows all others everything.
    fn forbid(&self, operation: &str, resource: &[&str]) {
        let (broker, user) = (self.plaintext(), format!("User:{}", LIMITED_USER.0));
        let acl = |arguments: &[&str]| {
            let common = [&["--bootstrap-server", &broker, "--add"], resource].concat();
            let done = Kafka::tool("org.apache.kafka.tools.AclCommand", &[&common[..], arguments].concat());
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        acl(&["--allow-principal", "User:*", "--operation", "All"]);
        acl(&["--deny-principal", &user, "--operation", operation]);
    }
}

impl Listeners {
    fn free() -> Self {
        let [plain, controller, secure, sasl, mutual, bearer, brief] =
            std::array::from_fn(|_| free_address());
        Self { plain, controller, secure, sasl, mutual, bearer, brief }
    }

    /// Name, protocol and address of each listener.
    fn all(&self) -> [(&str, &str, SocketAddr); 7] {
        [
            ("PLAINTEXT", "PLAINTEXT", self.plain),
            ("CONTROLLER", "PLAINTEXT", self.controller),
            ("SECURE", "SASL_SSL", self.secure),
            ("SASL", "SASL_PLAINTEXT", self.sasl),
            ("MUTUAL", "SSL", self.mutual),
            ("BEARER", "SASL_PLAINTEXT", self.bearer),
            ("BRIEF", "SASL_PLAINTEXT", self.brief),
        ]
    }
}

/// Arguments of Kafka's `format`, one per line.
fn users() -> String {
    let mut arguments = String::new();
    for (user, password) in [SCRAM_USER, LIMITED_USER] {
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let _ = writeln!(arguments, "--add-scram\n{mechanism}=[name={user},password={password}]");
        }
    }
    arguments
}

fn properties(listeners: &Listeners, authority: &Path, store: &Path, issuer: &Issuer) -> String {
    let all = listeners.all();
    let joined =
        |of: &dyn Fn(&(&str, &str, SocketAddr)) -> String| all.iter().map(of).collect::<Vec<_>>().join(",");
    let listening = joined(&|(name, _, address)| format!("{name}://{address}"));
    let controller = format!("CONTROLLER://{}", listeners.controller);
    let advertised = listening.replace(&format!("{controller},"), "");
    let protocols = joined(&|(name, protocol, _)| format!("{name}:{protocol}"));
    let (authority, store, keys) = (authority.display(), store.display(), issuer.keys_url());
    let (user, password) = PLAIN_USER;
    format!(
        "listeners={listening}
advertised.listeners={advertised}
listener.security.protocol.map={protocols}
inter.broker.listener.name=PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location={store}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
listener.name.mutual.ssl.client.auth=required
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN
listener.name.secure.scram-sha-256.sasl.jaas.config={SCRAM}
listener.name.secure.scram-sha-512.sasl.jaas.config={SCRAM}
listener.name.secure.plain.sasl.jaas.config={PLAIN} user_{user}=\"{password}\";
listener.name.sasl.sasl.enabled.mechanisms=SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl.scram-sha-512.sasl.jaas.config={SCRAM}
listener.name.sasl.oauthbearer.sasl.jaas.config={BEARER} unsecuredLoginStringClaim_sub=\"broker\";
listener.name.bearer.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.bearer.oauthbearer.sasl.jaas.config={BEARER};
listener.name.bearer.oauthbearer.sasl.server.callback.handler.class={VALIDATOR}
listener.name.bearer.oauthbearer.sasl.oauthbearer.jwks.endpoint.url={keys}
listener.name.bearer.oauthbearer.sasl.oauthbearer.expected.audience=kafka
listener.name.brief.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.brief.scram-sha-512.sasl.jaas.config={SCRAM}
listener.name.brief.scram-sha-512.connections.max.reauth.ms=2000
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
"
    )
}
