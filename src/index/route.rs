//! Where an event goes: the first rule that matches decides.

use std::borrow::Cow;
use std::fmt;

use regex::Regex;

use super::event::lossy;
use super::fields::{Field, Fields};
use super::kafka_log::Level;
use crate::config::{Destination, IndexConfig, RouteConfig};

/// Name of the built-in route of ERROR and FATAL events.
pub const DEFAULT_ERRORS: &str = "default.errors";

/// Name of the built-in route of all other events.
pub const DEFAULT_OTHERS: &str = "default.others";

/// The destinations of one event; none of them if it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Destinations {
    /// To the error topic, as it came.
    pub error_topic: bool,
    /// To Elasticsearch.
    pub index: bool,
    /// To a local file.
    pub archive: bool,
}

impl Destinations {
    /// Returns the set of this one destination; that of a drop is empty.
    pub fn of(destination: Destination) -> Destinations {
        Destinations {
            error_topic: destination == Destination::ErrorTopic,
            index: destination == Destination::Index,
            archive: destination == Destination::Archive,
        }
    }
}

/// What a router decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routed {
    /// Where the event goes.
    pub to: Destinations,
    /// Which route said so; a position in [`Router::names`].
    pub route: usize,
}

/// The rules, in their order.
#[derive(Debug)]
pub struct Router {
    routes: Vec<Route>,
    names: Vec<String>,
    /// Where errors go that no rule takes.
    errors: Destinations,
    /// Where all else goes that no rule takes.
    others: Destinations,
}

#[derive(Debug)]
struct Route {
    /// Empty for any.
    levels: Vec<Level>,
    logger: Option<Regex>,
    message: Option<Regex>,
    headers: Vec<(String, Regex)>,
    fields: Vec<(Field, Regex)>,
    to: Destinations,
}

impl Router {
    /// Returns the router of these rules. Behind them, ERROR and FATAL go to the error topic
    /// (and are indexed too, with `index_errors`), all else is indexed; what would be indexed is
    /// archived where there is no Elasticsearch.
    ///
    /// Errors: the route that names a level or a field that does not exist, for the caller to
    /// put the configuration file to.
    pub fn new(
        routes: &[RouteConfig],
        index: &IndexConfig,
        has_elasticsearch: bool,
    ) -> Result<Router, String> {
        let mut names: Vec<String> = routes.iter().map(|route| route.name.clone()).collect();
        names.extend([DEFAULT_ERRORS.to_owned(), DEFAULT_OTHERS.to_owned()]);
        let others = Destinations::of(match has_elasticsearch {
            true => Destination::Index,
            false => Destination::Archive,
        });
        let errors = Destinations {
            error_topic: true,
            index: index.index_errors && others.index,
            archive: index.index_errors && others.archive,
        };
        Ok(Router {
            routes: routes.iter().map(Route::new).collect::<Result<_, _>>()?,
            names,
            errors,
            others,
        })
    }

    /// Returns the names of all routes, the two built-in ones last.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the rules before the one that takes the record, each with the first condition that
    /// does not hold.
    pub fn misses(&self, fields: &Fields<'_>) -> Vec<(String, String)> {
        let misses = self.routes.iter().map_while(|route| route.miss(fields));
        self.names.iter().cloned().zip(misses.map(|condition| condition.to_string())).collect()
    }

    /// Returns where the record goes, and which route says so.
    ///
    /// A record that the shipper itself produced never goes to the error topic: it would come
    /// back for ever where that topic is consumed too. It goes where events go that are no
    /// errors instead.
    pub fn route(&self, fields: &Fields<'_>) -> Routed {
        let is_error = matches!(fields.parsed.level, Some(Level::Error | Level::Fatal));
        let matching = self.routes.iter().position(|route| route.matches(fields));
        let (route, to) = match matching {
            Some(route) => (route, self.routes[route].to),
            None if is_error => (self.routes.len(), self.errors),
            None => (self.routes.len() + 1, self.others),
        };
        let to = match to.error_topic && fields.origin.is_from_shipper() {
            true => self.others,
            false => to,
        };
        Routed { to, route }
    }
}

impl Route {
    fn new(config: &RouteConfig) -> Result<Route, String> {
        let name = &config.name;
        let level = |word: &String| {
            Level::from_word(word).ok_or_else(|| format!("route `{name}`: no level `{word}`"))
        };
        let field = |(field, regex): (&String, &Regex)| match Field::named(field) {
            Some(field) => Ok((field, regex.clone())),
            None => Err(format!("route `{name}`: no field `{field}` in a document")),
        };
        let header = |(name, regex): (&String, &Regex)| (name.clone(), regex.clone());
        Ok(Route {
            levels: config.level.iter().map(level).collect::<Result<_, _>>()?,
            logger: config.logger.clone(),
            message: config.message.clone(),
            headers: config.header.iter().map(header).collect(),
            fields: config.field.iter().map(field).collect::<Result<_, _>>()?,
            to: Destinations::of(config.to),
        })
    }

    /// Whether all conditions hold.
    fn matches(&self, fields: &Fields<'_>) -> bool {
        self.miss(fields).is_none()
    }

    /// Returns the first condition that does not hold; what an event lacks matches none.
    fn miss(&self, fields: &Fields<'_>) -> Option<Condition<'_>> {
        let Fields { parsed, origin, .. } = *fields;
        let has_level = |levels: &[Level]| parsed.level.is_some_and(|own| levels.contains(&own));
        let has_logger = |regex: &Regex| parsed.logger.is_some_and(|own| regex.is_match(own));
        let has_header = |(name, regex): &&(String, Regex)| {
            let value = origin.header(name).map(lossy);
            value.is_some_and(|value| regex.is_match(&value))
        };
        let has_field = |(field, regex): &&(Field, Regex)| {
            let value: Option<Cow<'_, str>> = field.value(fields);
            value.is_some_and(|value| regex.is_match(&value))
        };
        if !self.levels.is_empty() && !has_level(&self.levels) {
            return Some(Condition::Level);
        }
        if !self.logger.as_ref().is_none_or(has_logger) {
            return Some(Condition::Logger);
        }
        if !self.message.as_ref().is_none_or(|regex| regex.is_match(parsed.message)) {
            return Some(Condition::Message);
        }
        if let Some((name, _)) = self.headers.iter().find(|header| !has_header(header)) {
            return Some(Condition::Header(name));
        }
        let (field, _) = self.fields.iter().find(|field| !has_field(field))?;
        Some(Condition::Field(field))
    }
}

/// A condition of a rule.
#[derive(Debug, Clone, Copy)]
enum Condition<'a> {
    Level,
    Logger,
    Message,
    Header(&'a str),
    Field(&'a Field),
}

impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Level => f.write_str("level"),
            Condition::Logger => f.write_str("logger"),
            Condition::Message => f.write_str("message"),
            Condition::Header(name) => write!(f, "header {name}"),
            Condition::Field(field) => write!(f, "field {field}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use jiff::tz::TimeZone;

    use super::*;
    use crate::index::event::Event;
    use crate::index::kafka_log::parse;
    use crate::index::origin::{DLQ_REASON, Header, Origin, ROUTE_NAME};
    use crate::time::TimeReader;

    fn index_config(index_errors: bool) -> IndexConfig {
        IndexConfig {
            topics: vec!["broker-logs".to_owned()],
            group_id: "shipper-index".to_owned(),
            error_topic: Some("broker-errors".to_owned()),
            dead_letter_topic: "broker-logs-dead-letters".to_owned(),
            index_errors,
            timezone: TimeZone::UTC,
            bytes_max: 4_000_000,
            count_max: 5000,
            linger: Duration::from_millis(200),
            in_flight_max: 2,
            shutdown_timeout: Duration::from_secs(20),
        }
    }

    /// Returns a route that takes everything.
    fn route(name: &str, to: Destination) -> RouteConfig {
        RouteConfig {
            name: name.to_owned(),
            level: Vec::new(),
            logger: None,
            message: None,
            header: BTreeMap::new(),
            field: BTreeMap::new(),
            to,
        }
    }

    fn regex(pattern: &str) -> Regex {
        Regex::new(pattern).expect("a pattern")
    }

    fn regexes(conditions: &[(&str, &str)]) -> BTreeMap<String, Regex> {
        let conditions = conditions.iter();
        conditions.map(|(name, pattern)| (name.to_string(), regex(pattern))).collect()
    }

    /// Returns the name of the route `event` takes, and where to.
    fn routed(router: &Router, event: &str, headers: &[Header<'_>]) -> (String, Destinations) {
        let event = Event::from_value(event.as_bytes());
        let parsed = parse(&event.text, &mut TimeReader::new(TimeZone::UTC));
        let origin = Origin::new("broker-logs", 0, 0, 0, headers);
        let routed = router.route(&Fields { event: &event, parsed: &parsed, origin: &origin });
        (router.names()[routed.route].clone(), routed.to)
    }

    const ERROR: &str =
        "[2024-05-27 13:34:02,000] ERROR [Broker id=1] no disk (kafka.log.LogManager)";
    const INFO: &str =
        "[2024-05-27 13:34:02,000] INFO done (kafka.log.LogManager)\njava.lang.Error: a";
    const NO_LAYOUT: &str = "ERROR no disk";

    const NOWHERE: Destinations = Destinations { error_topic: false, index: false, archive: false };
    const ERROR_TOPIC: Destinations = Destinations { error_topic: true, ..NOWHERE };
    const INDEX: Destinations = Destinations { index: true, ..NOWHERE };
    const ARCHIVE: Destinations = Destinations { archive: true, ..NOWHERE };

    #[test]
    fn without_rules_the_level_decides_and_nothing_else() {
        let fatal = ERROR.replace("ERROR", "FATAL");
        for (index_errors, has_elasticsearch, errors, others) in [
            (false, true, ERROR_TOPIC, INDEX),
            (true, true, Destinations { index: true, ..ERROR_TOPIC }, INDEX),
            (false, false, ERROR_TOPIC, ARCHIVE),
            (true, false, Destinations { archive: true, ..ERROR_TOPIC }, ARCHIVE),
        ] {
            let config = index_config(index_errors);
            let router = Router::new(&[], &config, has_elasticsearch).expect("no rules");
            for (event, name, to) in [
                (ERROR, DEFAULT_ERRORS, errors),
                (&fatal, DEFAULT_ERRORS, errors),
                (INFO, DEFAULT_OTHERS, others),
                (NO_LAYOUT, DEFAULT_OTHERS, others),
            ] {
                assert_eq!(routed(&router, event, &[]), (name.to_owned(), to), "{event}");
            }
        }
    }

    #[test]
    fn a_rule_matches_if_all_its_conditions_do() {
        let headers: [Header; 2] = [("env", b"prod"), ("path", b"/var/log/kafka/server.log")];
        let any = || route("rule", Destination::Drop);
        for (rule, matches) in [
            (any(), [true, true, true]),
            (
                RouteConfig { level: vec!["error".into(), "warn".into()], ..any() },
                [true, false, false],
            ),
            (RouteConfig { logger: Some(regex("^kafka.log")), ..any() }, [true, true, false]),
            (RouteConfig { message: Some(regex("no disk$")), ..any() }, [true, false, true]),
            (RouteConfig { header: regexes(&[("env", "^prod$")]), ..any() }, [true, true, true]),
            (
                RouteConfig { header: regexes(&[("env", "^prod$"), ("rack", "")]), ..any() },
                [false; 3],
            ),
            (RouteConfig { header: regexes(&[("path", "server")]), ..any() }, [true, true, true]),
            (
                RouteConfig { field: regexes(&[("fields.env", "prod")]), ..any() },
                [true, true, true],
            ),
            (
                RouteConfig { field: regexes(&[("kafka.log.component", "Broker")]), ..any() },
                [true, false, false],
            ),
            (
                RouteConfig { field: regexes(&[("error.type", "Error$")]), ..any() },
                [false, true, false],
            ),
            (
                RouteConfig { level: vec!["INFO".into()], message: Some(regex("disk")), ..any() },
                [false; 3],
            ),
        ] {
            let router = Router::new(std::slice::from_ref(&rule), &index_config(false), true)
                .expect("a rule");
            let matched =
                [ERROR, INFO, NO_LAYOUT].map(|event| routed(&router, event, &headers).0 == "rule");
            assert_eq!(matched, matches, "{rule:?}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let mut logger = route("logger", Destination::Archive);
        logger.logger = Some(regex("LogManager"));
        let rules = [logger, route("rest", Destination::Drop), route("never", Destination::Index)];
        let router = Router::new(&rules, &index_config(false), true).expect("rules");
        assert_eq!(routed(&router, ERROR, &[]), ("logger".to_owned(), ARCHIVE));
        assert_eq!(routed(&router, NO_LAYOUT, &[]), ("rest".to_owned(), NOWHERE));
    }

    #[test]
    fn what_the_shipper_produced_never_goes_to_the_error_topic_again() {
        let mut archived = route("archived", Destination::Archive);
        archived.message = Some(regex("archive"));
        let rules = [archived, route("all", Destination::ErrorTopic)];
        for header in [ROUTE_NAME, DLQ_REASON] {
            let headers: [Header; 1] = [(header, b"x")];
            let router = Router::new(&rules, &index_config(true), true).expect("rules");
            assert_eq!(routed(&router, INFO, &headers), ("all".to_owned(), INDEX));
            assert_eq!(routed(&router, "archive", &headers).1, ARCHIVE);
            let router = Router::new(&[], &index_config(false), false).expect("no rules");
            assert_eq!(routed(&router, ERROR, &headers), (DEFAULT_ERRORS.to_owned(), ARCHIVE));
        }
    }

    #[test]
    fn a_level_or_a_field_that_does_not_exist_is_refused_by_name() {
        let mut level = route("a", Destination::Drop);
        level.level = vec!["LOUD".to_owned()];
        let mut field = route("b", Destination::Drop);
        field.field = regexes(&[("log.class", "x")]);
        for (rule, problem) in [
            (level, "route `a`: no level `LOUD`"),
            (field, "route `b`: no field `log.class` in a document"),
        ] {
            let refusal = Router::new(&[rule], &index_config(false), true);
            assert_eq!(refusal.expect_err("unknown"), problem);
        }
    }
}
