//! asyncapi.yaml agrees with the code.

use std::fs;
use std::path::{Path, PathBuf};

use saphyr::{LoadableYamlNode, Yaml};
use serde_json::Value as Json;
use unprompt_schemas::topics::{PICTURE_MAX_BYTES, Topic};
use unprompt_schemas::{cloudevents, dead_letter, records};

/// A part of the document, with its path for failure messages.
#[derive(Clone)]
struct Node<'a> {
    yaml: &'a Yaml<'a>,
    path: String,
}

impl<'a> Node<'a> {
    fn get(&self, name: &str) -> Node<'a> {
        let path = format!("{}/{name}", self.path);
        let yaml = self.yaml.as_mapping_get(name).unwrap_or_else(|| panic!("asyncapi.yaml has no {path}"));
        Node { yaml, path }
    }

    fn at(&self, path: &str) -> Node<'a> {
        path.split('/').fold(self.clone(), |node, name| node.get(name))
    }

    fn text(&self) -> &'a str {
        self.yaml.as_str().unwrap_or_else(|| panic!("no string at {}", self.path))
    }

    fn number(&self) -> i64 {
        self.yaml.as_integer().unwrap_or_else(|| panic!("no integer at {}", self.path))
    }

    fn entries(&self) -> Vec<(&'a str, Node<'a>)> {
        let mapping = self.yaml.as_mapping().unwrap_or_else(|| panic!("no mapping at {}", self.path));
        mapping.iter().map(|(name, _)| name.as_str().unwrap()).map(|name| (name, self.get(name))).collect()
    }

    fn items(&self) -> Vec<Node<'a>> {
        let items = self.yaml.as_sequence().unwrap_or_else(|| panic!("no list at {}", self.path));
        items.iter().enumerate().map(|(n, yaml)| Node { yaml, path: format!("{}/{n}", self.path) }).collect()
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn with_document(check: impl FnOnce(&Node<'_>)) {
    let text = fs::read_to_string(file("asyncapi.yaml")).unwrap();
    let documents = Yaml::load_from_str(&text).unwrap();
    check(&Node { yaml: &documents[0], path: "#".to_owned() });
}

fn topic_of(channel: &Node<'_>) -> Topic {
    let address = channel.get("address").text();
    let topic = Topic::ALL.into_iter().find(|topic| topic.base_name() == address);
    topic.unwrap_or_else(|| panic!("{}: no topic {address} in the catalogue", channel.path))
}

#[test]
fn channels_match_the_topic_catalogue() {
    with_document(|document| {
        let channels = document.get("channels").entries();
        let mut topics: Vec<Topic> = channels.iter().map(|(_, channel)| topic_of(channel)).collect();
        topics.sort();
        assert_eq!(topics, Topic::ALL);
        for (_, channel) in channels {
            let spec = topic_of(&channel).spec();
            let binding = channel.at("bindings/kafka");
            let configuration = binding.get("topicConfiguration");
            assert_eq!(binding.get("partitions").number(), i64::from(spec.partitions), "{}", channel.path);
            assert_eq!(configuration.get("retention.ms").number(), spec.retention_ms, "{}", channel.path);
            let limit = configuration.get("max.message.bytes").number();
            assert_eq!(limit, i64::from(spec.max_message_bytes), "{}", channel.path);
            let policy = configuration.get("cleanup.policy").items()[0].text();
            assert_eq!(policy == "compact", spec.compacted, "{}", channel.path);
        }
    });
}

fn avro_topic(record: &str) -> Topic {
    use records::Record;
    let known = [
        (records::Prompt::NAME, records::Prompt::TOPIC),
        (records::ImageEmbedding::NAME, records::ImageEmbedding::TOPIC),
        (records::PromptEmbedding::NAME, records::PromptEmbedding::TOPIC),
        (records::Head::NAME, records::Head::TOPIC),
        (records::Prediction::NAME, records::Prediction::TOPIC),
    ];
    known.into_iter().find(|(name, _)| *name == record).unwrap_or_else(|| panic!("no record {record}")).1
}

#[test]
fn messages_refer_to_the_schemas_of_their_topics() {
    with_document(|document| {
        let mut schemas = 0;
        for (_, channel) in document.get("channels").entries() {
            for (_, message) in channel.get("messages").entries() {
                let reference = message.get("$ref").text();
                let payload = document.at(reference.trim_start_matches("#/")).get("payload");
                if payload.yaml.as_mapping_get("schemaFormat").is_none() {
                    continue;
                }
                let schema = fs::read_to_string(file(payload.at("schema/$ref").text())).unwrap();
                let schema: Json = serde_json::from_str(&schema).unwrap();
                assert_eq!(
                    avro_topic(schema["name"].as_str().unwrap()),
                    topic_of(&channel),
                    "{}",
                    message.path
                );
                schemas += 1;
            }
        }
        assert_eq!(schemas, 5);
    });
}

#[test]
fn every_reference_resolves() {
    fn follow(document: &Node<'_>, node: &Node<'_>) -> usize {
        if node.yaml.as_mapping().is_none() {
            return 0;
        }
        let lead = |(name, child): (&str, Node<'_>)| match name {
            "$ref" if child.text().starts_with("#/") => {
                document.at(&child.text()[2..]);
                1
            }
            "$ref" => {
                assert!(file(child.text()).exists(), "{}", child.path);
                1
            }
            _ => follow(document, &child),
        };
        node.entries().into_iter().map(lead).sum()
    }
    with_document(|document| assert!(follow(document, document) > 20));
}

#[test]
fn documented_headers_match_the_code() {
    use cloudevents::names as event;
    use dead_letter::names as letter;
    let image = [
        event::SPECVERSION,
        event::ID,
        event::SOURCE,
        event::TYPE,
        event::TIME,
        event::PROMPT_ID,
        event::SEED,
        event::CONTENT_TYPE,
        event::CORRELATION_ID,
        event::TRACEPARENT,
        event::TRACESTATE,
    ];
    let dead = [
        letter::TOPIC,
        letter::PARTITION,
        letter::OFFSET,
        letter::TIMESTAMP,
        letter::SERVICE,
        letter::CODE,
        letter::ERROR,
        letter::VALUE_OMITTED,
    ];
    with_document(|document| {
        let names = |schema: &str| -> Vec<&str> {
            let properties = document.at("components/schemas").get(schema).get("properties");
            properties.entries().into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names("imageHeaders"), image);
        assert_eq!(names("deadLetterHeaders"), dead);
    });
}

#[test]
fn documented_limits_and_examples_match_the_code() {
    with_document(|document| {
        let messages = document.at("components/messages");
        assert_eq!(messages.at("image/payload/maxLength").number(), PICTURE_MAX_BYTES as i64);
        assert_eq!(messages.at("plainPrompt/payload/maxLength").number(), records::PROMPT_MAX_BYTES as i64);
        let example = |message: &str| messages.get(message).get("examples").items()[0].clone();
        let headers = |message: &str| -> cloudevents::Headers {
            let pairs = example(message).get("headers").entries();
            pairs.into_iter().map(|(name, text)| (name.to_owned(), text.text().as_bytes().to_vec())).collect()
        };
        let event = cloudevents::ImageEvent::parse(&headers("image")).unwrap();
        assert_eq!(event.event_type.as_deref(), Some(cloudevents::names::TYPE_IMAGE_GENERATED));
        let letter = dead_letter::DeadLetter::parse(&headers("deadLetter")).unwrap();
        assert_eq!(letter.topic, Topic::Images.base_name());
        let text = example("prompt").at("payload/text").text().to_owned();
        let prompt_id = unprompt_schemas::identity::prompt_id(&text);
        assert_eq!(event.prompt_id, Some(prompt_id), "the picture and prompt examples agree");
    });
}
