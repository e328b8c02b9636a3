//! Who the brokers are, and who leads what.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::messages::{BrokerMetadata, Leader, Metadata, TopicId, TopicMetadata};
use crate::config::KafkaConfig;

/// What is known of the cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The configured addresses: asked again whenever none of `brokers` answers, so that brokers
    /// that all were replaced are found.
    bootstrap: Vec<Arc<str>>,
    /// Those to ask where none of the others answers.
    fallback: Vec<Arc<str>>,
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
    /// By partition, node -1 for none; empty for as long as the topic is unknown.
    leaders: Vec<Leader>,
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
        self.leaders.iter().any(|leader| leader.node < 0)
    }
}

impl Cluster {
    pub(super) fn new(config: &KafkaConfig) -> Cluster {
        let shared = |list: &[String]| list.iter().map(|s| s.as_str().into()).collect();
        Cluster {
            bootstrap: shared(&config.bootstrap_servers),
            fallback: shared(&config.bootstrap_servers_fallback),
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
        }
    }

    /// All addresses, each once: those of the brokers, then the configured ones.
    pub(super) fn addresses(&self) -> Vec<Arc<str>> {
        let mut addresses: Vec<_> = self.brokers.values().cloned().collect();
        for address in self.bootstrap.iter().chain(&self.fallback) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// Those of them that may be asked for the others: the fallback only where all others fail.
    pub(super) fn addresses_to_ask(&self, fails: impl Fn(&Arc<str>) -> bool) -> Vec<Arc<str>> {
        let mut addresses = self.addresses();
        let is_fallback = |address: &Arc<str>| {
            self.fallback.contains(address)
                && !self.bootstrap.contains(address)
                && self.node_at(address).is_none()
        };
        if !addresses.iter().all(|address| is_fallback(address) || fails(address)) {
            addresses.retain(|address| !is_fallback(address));
        }
        addresses
    }

    /// Returns which broker has this address.
    pub(super) fn node_at(&self, address: &str) -> Option<i32> {
        self.brokers.iter().find(|(_, known)| &***known == address).map(|(node, _)| *node)
    }

    /// As [`Cluster::node_at`], unless the address is one of those that are configured.
    pub(super) fn advertised_node(&self, address: &Arc<str>) -> Option<i32> {
        let is_configured = self.bootstrap.contains(address) || self.fallback.contains(address);
        self.node_at(address).filter(|_| !is_configured)
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
        self.brokers.get(&leader.node)
    }

    /// Takes over who leads a partition now, as a former leader says; `brokers` says where they
    /// are. Returns whether that is news: what comes from an election before that we know of is none.
    pub(super) fn leader_moved(
        &mut self,
        topic: &str,
        partition: i32,
        leader: Leader,
        brokers: &[BrokerMetadata],
    ) -> bool {
        let known = self.topics.get_mut(topic).zip(usize::try_from(partition).ok());
        let known = known.and_then(|(topic, partition)| topic.leaders.get_mut(partition));
        let Some(known) = known.filter(|known| known.epoch < leader.epoch) else {
            return false;
        };
        *known = leader;
        if let Some(broker) = brokers.iter().find(|broker| broker.node == leader.node) {
            self.brokers.insert(broker.node, broker.address.as_str().into());
        }
        true
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
        // A topic that is being made has an error of its own, a leaderless partition only makes
        // this partition wait.
        if answer.code != 0 {
            self.leaders.clear();
            return;
        }
        // Epochs of another life of the topic, or of one that may be another, begin anew.
        let is_same_life = self.id == answer.id && self.id != TopicId::default();
        self.id = answer.id;
        let known = std::mem::take(&mut self.leaders);
        self.leaders = vec![Leader { node: -1, epoch: -1 }; answer.partitions.len()];
        for partition in answer.partitions {
            let Ok(index) = usize::try_from(partition.index) else { continue };
            let known = known.get(index).filter(|known| {
                // A broker that lags behind names the leader of an election before.
                is_same_life && known.epoch > partition.leader.epoch
            });
            if let Some(leader) = self.leaders.get_mut(index) {
                *leader = known.copied().unwrap_or(partition.leader);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::kafka::messages::PartitionMetadata;

    const LIFE: TopicId = [1; 16];

    fn broker(node: i32) -> BrokerMetadata {
        BrokerMetadata { node, address: format!("b{node}:9092") }
    }

    /// What a broker says of a topic with one partition.
    fn metadata(id: TopicId, node: i32, epoch: i32) -> Metadata {
        let leader = Leader { node, epoch };
        let partitions = vec![PartitionMetadata { code: 0, index: 0, leader }];
        let topic = TopicMetadata { code: 0, name: "a".into(), id, partitions };
        Metadata { brokers: vec![broker(1), broker(2)], topics: vec![topic], ..Metadata::default() }
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new(&config(&["b1:9092"], &[]));
        cluster.add_topic(&"a".into());
        cluster.update(metadata(LIFE, 1, 5));
        cluster
    }

    fn config(bootstrap_servers: &[&str], fallback: &[&str]) -> KafkaConfig {
        let mut text = format!("kafka.bootstrap_servers = {bootstrap_servers:?}\n");
        if !fallback.is_empty() {
            text += &format!("kafka.bootstrap_servers_fallback = {fallback:?}\n");
        }
        Config::parse(&text, Path::new("shipper.toml")).unwrap().kafka
    }

    #[test]
    fn the_fallback_is_asked_where_all_others_fail() {
        let mut cluster = Cluster::new(&config(&["b1:9092"], &["f1:9092", "b2:9092"]));
        let asked = |cluster: &Cluster, failing: &[&str]| {
            let addresses = cluster.addresses_to_ask(|address| failing.contains(&&**address));
            addresses.iter().map(|address| address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(asked(&cluster, &[]), ["b1:9092"]);
        assert_eq!(asked(&cluster, &["f1:9092"]), ["b1:9092"]);
        assert_eq!(asked(&cluster, &["b1:9092"]), ["b1:9092", "f1:9092", "b2:9092"]);
        // A broker of the cluster is asked like any other.
        cluster.update(metadata(LIFE, 1, 5));
        assert_eq!(asked(&cluster, &["b1:9092"]), ["b1:9092", "b2:9092"]);
        assert_eq!(asked(&cluster, &["b1:9092", "b2:9092"]), ["b1:9092", "b2:9092", "f1:9092"]);
    }

    fn leader(cluster: &Cluster) -> Option<&str> {
        cluster.leader("a", 0).map(|address| &**address)
    }

    #[test]
    fn a_former_leader_is_believed_where_it_knows_of_a_later_election() {
        let mut cluster = cluster();
        assert!(!cluster.leader_moved("a", 0, Leader { node: 2, epoch: 5 }, &[]));
        assert_eq!(leader(&cluster), Some("b1:9092"));
        assert!(cluster.leader_moved("a", 0, Leader { node: 2, epoch: 6 }, &[]));
        assert_eq!(leader(&cluster), Some("b2:9092"));
        assert!(cluster.leader_moved("a", 0, Leader { node: 3, epoch: 7 }, &[broker(3)]));
        assert_eq!(leader(&cluster), Some("b3:9092"));
        assert!(!cluster.leader_moved("a", 1, Leader { node: 3, epoch: 7 }, &[]));
        assert!(!cluster.leader_moved("b", 0, Leader { node: 3, epoch: 7 }, &[]));
        assert!(!cluster.leader_moved("a", -1, Leader { node: 3, epoch: 7 }, &[]));
        assert_eq!(leader(&cluster), Some("b3:9092"));
    }

    #[test]
    fn a_broker_that_lags_behind_does_not_bring_the_former_leader_back() {
        let mut cluster = cluster();
        assert!(cluster.leader_moved("a", 0, Leader { node: 2, epoch: 6 }, &[]));
        cluster.update(metadata(LIFE, 1, 5));
        assert_eq!(leader(&cluster), Some("b2:9092"));
        cluster.update(metadata(LIFE, 1, 7));
        assert_eq!(leader(&cluster), Some("b1:9092"));
    }

    #[test]
    fn elections_of_a_topic_that_was_made_anew_begin_anew() {
        for other in [[2; 16], TopicId::default()] {
            let mut cluster = cluster();
            cluster.update(metadata(other, 2, 0));
            assert_eq!(leader(&cluster), Some("b2:9092"));
        }
    }
}
