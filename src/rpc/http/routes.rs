//! The routes of HTTP/JSON, as the annotations `google.api.http` in `proto/` state them.
//!
//! Of that grammar this knows what the API uses: paths of names and `{field}`s, each one segment, an optional `:verb`
//! at the end, and a body that is all of the message or none.

use std::sync::LazyLock;

use http::Method;
use percent_encoding::percent_decode_str;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, MessageDescriptor, MethodDescriptor, Value,
};

use crate::proto::{FILE_DESCRIPTOR_SET, PACKAGE};

/// The descriptors of the API.
pub(super) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // Our own descriptors always fit; the tests would notice.
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap_or_default()
});

/// Every route.
pub(super) static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let Some(http) = POOL.get_extension_by_name("google.api.http") else {
        return Vec::new();
    };
    let services = POOL
        .services()
        .filter(|service| service.package_name() == PACKAGE);
    services
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .flat_map(|method| routes_of(&method, &http))
        .collect()
});

/// One way to make one call.
#[derive(Debug)]
pub(super) struct Route {
    /// How HTTP asks for it.
    pub method: Method,
    /// As it is annotated, such as `/v1/lattices/{lattice}:watch`.
    pub template: String,
    segments: Vec<Segment>,
    verb: Option<String>,
    /// Whether the message is the body; else it is the query.
    pub has_body: bool,
    /// The call.
    pub rpc: MethodDescriptor,
    /// Where gRPC has it, such as `/lattice.control.v1.WatchService/Watch`.
    pub path: http::uri::PathAndQuery,
}

#[derive(Debug)]
enum Segment {
    Name(String),
    /// Of the message's field of that name.
    Field(String),
}

/// Values of fields that stand in a path.
pub(super) type Bound = Vec<(String, String)>;

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Found {
    /// A call.
    Route(&'static Route, Bound),
    /// Nothing by this method, but something by these.
    OtherMethods(Vec<Method>),
    /// Nothing at all.
    Nothing,
}

/// Finds what `method` and `path` lead to.
pub(super) fn find(method: &Method, path: &str) -> Found {
    let mut others = Vec::new();
    for route in ROUTES.iter() {
        match route.bind(path) {
            Some(bound) if route.method == *method => return Found::Route(route, bound),
            Some(_) => others.push(route.method.clone()),
            None => {}
        }
    }
    match others.is_empty() {
        true => Found::Nothing,
        false => Found::OtherMethods(others),
    }
}

impl Route {
    /// The message that it takes.
    pub(super) fn input(&self) -> MessageDescriptor {
        self.rpc.input()
    }

    /// Names of the fields that stand in the path.
    pub(super) fn fields_in_path(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Name(_) => None,
            Segment::Field(name) => Some(name.as_str()),
        })
    }

    /// The values of the path's fields, if it is a path of this route.
    fn bind(&self, path: &str) -> Option<Bound> {
        let path = match &self.verb {
            Some(verb) => path.strip_suffix(verb.as_str())?.strip_suffix(':')?,
            None => path,
        };
        let mut given = path.strip_prefix('/')?.split('/');
        let mut bound = Vec::new();
        for segment in &self.segments {
            let given = given.next()?;
            match segment {
                Segment::Name(name) if name == given => {}
                Segment::Name(_) => return None,
                // A verb is no part of a value; a colon in a value is written as `%3A`.
                Segment::Field(_) if given.is_empty() || given.contains(':') => return None,
                Segment::Field(field) => {
                    let value = percent_decode_str(given).decode_utf8().ok()?;
                    bound.push((field.clone(), value.into_owned()));
                }
            }
        }
        given.next().is_none().then_some(bound)
    }
}

fn routes_of(rpc: &MethodDescriptor, http: &ExtensionDescriptor) -> Vec<Route> {
    let options = rpc.options();
    if !options.has_extension(http) {
        return Vec::new();
    }
    let annotated = options.get_extension(http);
    let Some(first) = annotated.as_message() else {
        return Vec::new();
    };
    let more = first.get_field_by_name("additional_bindings");
    let more = more.as_deref().and_then(Value::as_list).unwrap_or_default();
    let rules = [first]
        .into_iter()
        .chain(more.iter().filter_map(Value::as_message));
    rules.filter_map(|rule| route_of(rpc, rule)).collect()
}

fn route_of(rpc: &MethodDescriptor, rule: &DynamicMessage) -> Option<Route> {
    const METHODS: [(&str, Method); 4] = [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
    ];
    let (field, method) = METHODS
        .into_iter()
        .find(|(field, _)| rule.has_field_by_name(field))?;
    let template = rule.get_field_by_name(field)?.as_str()?.to_owned();
    let (path, verb) = match template.rsplit_once(':') {
        Some((path, verb)) => (path, Some(verb.to_owned())),
        None => (template.as_str(), None),
    };
    let segments = path.strip_prefix('/')?.split('/').map(|segment| {
        let field = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match field {
            Some(field) => Segment::Field(field.to_owned()),
            None => Segment::Name(segment.to_owned()),
        }
    });
    let segments = segments.collect();
    Some(Route {
        method,
        segments,
        verb,
        has_body: rule.has_field_by_name("body"),
        path: format!("/{}/{}", rpc.parent_service().full_name(), rpc.name())
            .parse()
            .ok()?,
        rpc: rpc.clone(),
        template,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &Method, path: &str) -> Option<(&'static str, Bound)> {
        match find(method, path) {
            Found::Route(route, bound) => Some((route.rpc.name(), bound)),
            Found::OtherMethods(_) | Found::Nothing => None,
        }
    }

    #[test]
    fn every_rpc_that_has_an_answer_in_one_piece_has_a_route() {
        let services = POOL
            .services()
            .filter(|service| service.package_name() == PACKAGE);
        for rpc in services.flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let has_route = ROUTES.iter().any(|route| route.rpc == rpc);
            assert_eq!(has_route, !rpc.is_client_streaming(), "{}", rpc.full_name());
        }
    }

    #[test]
    fn no_two_routes_are_one_and_their_fields_are_texts() {
        for (index, route) in ROUTES.iter().enumerate() {
            let (path, _) = route.template.rsplit_once(':').unwrap_or((&route.template, ""));
            assert!(path.starts_with("/v1/"), "{path}");
            for other in ROUTES.iter().skip(index + 1) {
                let is_one = (&route.method, &route.template) == (&other.method, &other.template);
                assert!(!is_one, "{}", route.template);
            }
            for name in route.fields_in_path() {
                let field = route.input().get_field_by_name(name).unwrap();
                assert_eq!(field.kind(), prost_reflect::Kind::String, "{name}");
            }
        }
    }

    #[test]
    fn a_path_leads_to_one_route_and_its_values_are_decoded_once() {
        let lattice = |name: &str| ("lattice".to_owned(), name.to_owned());
        assert_eq!(
            found(&Method::GET, "/v1/lattices/a%2E%252Eb"),
            Some(("GetLattice", vec![lattice("a.%2Eb")]))
        );
        assert_eq!(
            found(&Method::GET, "/v1/lattices/default:watch"),
            Some(("Watch", vec![lattice("default")]))
        );
        for nothing in [
            "",
            "/",
            "v1/lattices",
            "/v1/lattices/",
            "/v1/lattices//claims",
            "/v1/lattices/a/",
            "/v1//lattices",
            "/v1/lattices/a:b:watch",
            "/v1/lattices/a:steal",
            "/v1/lattices/:watch",
            "/v1/lattices/%ff",
            "/v1/lattices/a/claims/b/c",
            "/V1/lattices",
            "/lattice.control.v1.LatticeService/ListLattices",
        ] {
            assert_eq!(found(&Method::GET, nothing), None, "{nothing}");
        }
        assert!(matches!(
            find(&Method::PATCH, "/v1/lattices/a/claims"),
            Found::OtherMethods(methods) if methods == [Method::PUT, Method::GET]
        ));
    }
}
