//! Where an event goes: the first rule that matches decides.

use std::borrow::Cow;

use regex::Regex;

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

    /// Whether all conditions hold; what an event lacks matches no condition.
    fn matches(&self, fields: &Fields<'_>) -> bool {
        let Fields { parsed, origin, .. } = *fields;
        let has_level = |levels: &[Level]| parsed.level.is_some_and(|own| levels.contains(&own));
        let has_logger = |regex: &Regex| parsed.logger.is_some_and(|own| regex.is_match(own));
        let has_header = |(name, regex): &(String, Regex)| {
            let value = origin.header(name).map(String::from_utf8_lossy);
            value.is_some_and(|value| regex.is_match(&value))
        };
        let has_field = |(field, regex): &(Field, Regex)| {
            let value: Option<Cow<'_, str>> = field.value(fields);
            value.is_some_and(|value| regex.is_match(&value))
        };
        (self.levels.is_empty() || has_level(&self.levels))
            && self.logger.as_ref().is_none_or(has_logger)
            && self
                .message
                .as_ref()
                .is_none_or(|regex| regex.is_match(parsed.message))
            && self.headers.iter().all(has_header)
            && self.fields.iter().all(has_field)
    }
}
