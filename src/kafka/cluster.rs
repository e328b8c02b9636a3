//! Who the brokers are, and who leads what.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::messages::{Metadata, TopicId, TopicMetadata};

/// What is known of the cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The configured addresses: asked again whenever none of `brokers` answers, so that brokers
    /// that all were replaced are found.
    bootstrap: Vec<Arc<str>>,
    /// Addresses by node.
    brokers: BTreeMap<i32, Arc<str>>,
    /// The topics that somebody asked for.
    topics: BTreeMap<Arc<str>, Topic>,
}

/// What is known of a topic.
#[derive(Debug, Default)]
pub(super) struct Topic {
    /// Zero where the broker gives none.
    pub(super) id: TopicId,
    /// Node of the leader by partition, -1 for none; empty for as long as the topic is unknown.
    leaders: Vec<i32>,
    /// Why it is unknown: the code of the last answer.
    pub(super) code: i16,
}

impl Topic {
    /// `None` for as long as the topic is unknown.
    pub(super) fn n_partitions(&self) -> Option<i32> {
        (!self.leaders.is_empty()).then_some(self.leaders.len() as i32)
    }

    /// Whether a partition is without a leader.
    pub(super) fn lacks_a_leader(&self) -> bool {
        self.leaders.iter().any(|leader| *leader < 0)
    }
}

impl Cluster {
    pub(super) fn new(bootstrap_servers: &[String]) -> Cluster {
        Cluster {
            bootstrap: bootstrap_servers.iter().map(|s| s.as_str().into()).collect(),
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
        }
    }

    /// All addresses that may be asked, each once.
    pub(super) fn addresses(&self) -> Vec<Arc<str>> {
        let mut addresses: Vec<_> = self.brokers.values().cloned().collect();
        for address in &self.bootstrap {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// Begins to care about a topic; returns whether it did not before.
    pub(super) fn add_topic(&mut self, topic: &Arc<str>) -> bool {
        if self.topics.contains_key(topic) {
            return false;
        }
        self.topics.insert(topic.clone(), Topic::default());
        true
    }

    /// The topics that are cared about.
    pub(super) fn topics(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Topic)> {
        self.topics.iter()
    }

    pub(super) fn topic(&self, topic: &str) -> Option<&Topic> {
        self.topics.get(topic)
    }

    /// Returns the name of the topic with this id.
    pub(super) fn topic_by_id(&self, id: TopicId) -> Option<&Arc<str>> {
        let mut topics = self.topics.iter();
        topics.find(|(_, topic)| topic.id == id).map(|(name, _)| name)
    }

    /// Returns the address of the leader, if there is one.
    pub(super) fn leader(&self, topic: &str, partition: i32) -> Option<&Arc<str>> {
        let topic = self.topics.get(topic)?;
        let leader = topic.leaders.get(usize::try_from(partition).ok()?)?;
        self.brokers.get(leader)
    }

    /// Takes over what a broker says. An answer without brokers, as one that has just started
    /// may give, does not make us forget the others.
    pub(super) fn update(&mut self, metadata: Metadata) {
        if !metadata.brokers.is_empty() {
            self.brokers.clear();
        }
        for broker in metadata.brokers {
            let address = broker.address.as_str().into();
            self.brokers.insert(broker.node, address);
        }
        for answer in metadata.topics {
            if let Some(topic) = self.topics.get_mut(answer.name.as_str()) {
                topic.update(answer);
            }
        }
    }
}

impl Topic {
    fn update(&mut self, answer: TopicMetadata) {
        self.code = answer.code;
        self.leaders.clear();
        // A topic that is being made has an error of its own, a leaderless partition only makes
        // this partition wait.
        if answer.code != 0 {
            return;
        }
        self.id = answer.id;
        self.leaders = vec![-1; answer.partitions.len()];
        for partition in answer.partitions {
            let slot = usize::try_from(partition.index).ok();
            if let Some(leader) = slot.and_then(|slot| self.leaders.get_mut(slot)) {
                *leader = partition.leader;
            }
        }
    }
}
