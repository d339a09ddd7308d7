//! Generates the OpenAPI document from the route table and the types. The program embeds the file that the test
//! here compares; `UPDATE_GOLDEN=1 cargo test -p api openapi` regenerates it.

use crate::http::events::Event;
use crate::http::problem::Document;
use crate::http::route::{ANY, Media, Parameter, ROUTES, Route};
use crate::http::wire;
use axum::http::{Method, StatusCode};
use resources::VmSpec;
use std::collections::BTreeSet;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathsBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, HeaderBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Ref,
    RefOr, Required, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

fn document() -> OpenApi {
    let description = "Controls one VM over a unix socket. Sizes in responses are in bytes; sets are Linux lists. \
                       Every error response is a problem document (RFC 9457) with a stable `code`. Fields may be \
                       added to responses. In request bodies, `null` means that a field is not given; an array is \
                       not accepted where an object is documented.";
    let info = InfoBuilder::new()
        .title("numavisor")
        .version("1")
        .description(Some(description))
        .license(Some(utoipa::openapi::License::new("Apache-2.0")))
        .build();
    let paths = ROUTES.iter().fold(PathsBuilder::new(), |paths, route| {
        paths.path(route.path, PathItem::new(method(&route.method), operation(route)))
    });
    OpenApiBuilder::new().info(info).paths(paths.build()).components(Some(components())).build()
}

fn method(method: &Method) -> HttpMethod {
    match *method {
        Method::GET => HttpMethod::Get,
        Method::PUT => HttpMethod::Put,
        Method::POST => HttpMethod::Post,
        Method::DELETE => HttpMethod::Delete,
        ref other => panic!("{other}"),
    }
}

fn operation(route: &Route) -> OperationBuilder {
    let mut operation = OperationBuilder::new().operation_id(Some(route.name)).summary(Some(route.summary));
    if route.path.contains("{id}") {
        let parameter = ParameterBuilder::new().name("id").parameter_in(ParameterIn::Path);
        operation = operation.parameter(parameter.required(Required::True).schema(Some(number())));
    }
    for (name, kind, description) in route.query {
        let schema = match kind {
            Parameter::Switch => Schema::from(ObjectBuilder::new().schema_type(Type::Boolean)),
            Parameter::Number => number(),
        };
        let parameter = ParameterBuilder::new().name(*name).parameter_in(ParameterIn::Query);
        let parameter = parameter.required(Required::False).description(Some(*description));
        operation = operation.parameter(parameter.schema(Some(schema)));
    }
    if route.answer == Media::EventStream {
        let parameter = ParameterBuilder::new().name("Last-Event-ID").parameter_in(ParameterIn::Header);
        let parameter = parameter.required(Required::False).description(Some("only events after this ID"));
        operation = operation.parameter(parameter.schema(Some(number())));
    }
    if let Media::Json(schema) = route.takes {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        let body = RequestBodyBuilder::new().content("application/json", content);
        operation = operation.request_body(Some(body.required(Some(Required::True)).build()));
    }
    for (status, description) in route.gives {
        let response = ResponseBuilder::new().description(*description);
        let response = match route.answer {
            _ if *status == 204 => response,
            Media::None => response,
            Media::Json(schema) => {
                let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema)));
                response.content("application/json", content.build())
            }
            Media::EventStream => {
                let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Event")));
                response.content("text/event-stream", content.build())
            }
            Media::Prometheus => {
                let text = ObjectBuilder::new().schema_type(Type::String);
                response.content("text/plain", ContentBuilder::new().schema(Some(text.build())).build())
            }
        };
        operation = operation.response(status.to_string(), response);
    }
    let mut problems: Vec<u16> = ANY.iter().chain(route.problems).copied().collect();
    problems.sort_unstable();
    for status in problems {
        operation = operation.response(status.to_string(), problem(status));
    }
    operation
}

fn number() -> Schema {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).into()
}

fn problem(status: u16) -> ResponseBuilder {
    let title = StatusCode::from_u16(status).unwrap().canonical_reason().unwrap();
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new().description(title).content("application/problem+json", content);
    let header = |name: &str, description: &str| {
        let text = ObjectBuilder::new().schema_type(Type::String).build();
        (name.to_owned(), HeaderBuilder::new().schema(Some(text)).description(Some(description)).build())
    };
    match status {
        405 => {
            let (name, header) = header("Allow", "the allowed methods");
            response.header(name, header)
        }
        503 => {
            let (name, header) = header("Retry-After", "seconds until a retry");
            response.header(name, header)
        }
        _ => response,
    }
}

fn components() -> utoipa::openapi::Components {
    let mut schemas: Vec<(String, RefOr<Schema>)> = Vec::new();
    fn add<T: ToSchema + PartialSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        T::schemas(schemas);
        schemas.push((T::name().into_owned(), T::schema()));
    }
    add::<Document>(&mut schemas);
    add::<VmSpec>(&mut schemas);
    add::<Event>(&mut schemas);
    add::<wire::Vm>(&mut schemas);
    add::<wire::Vnodes>(&mut schemas);
    add::<wire::Jobs>(&mut schemas);
    add::<wire::Devices>(&mut schemas);
    add::<wire::DiskSize>(&mut schemas);
    add::<wire::DiskSizeRequest>(&mut schemas);
    add::<wire::NetLink>(&mut schemas);
    add::<wire::NetLinkRequest>(&mut schemas);
    add::<wire::MoveRequest>(&mut schemas);
    add::<wire::SwapRequest>(&mut schemas);
    add::<wire::EvacuateRequest>(&mut schemas);
    add::<wire::AffinityRequest>(&mut schemas);
    add::<wire::VnodeAffinityRequest>(&mut schemas);
    add::<wire::TargetRequest>(&mut schemas);
    add::<wire::ReclaimRequest>(&mut schemas);
    add::<wire::GiveRequest>(&mut schemas);
    add::<wire::Reclaim>(&mut schemas);
    add::<wire::FreeMemory>(&mut schemas);
    add::<wire::DirtyRateRequest>(&mut schemas);
    add::<wire::DirtyRate>(&mut schemas);
    add::<wire::Health>(&mut schemas);
    add::<wire::Version>(&mut schemas);
    let open = |description: &str| {
        let any = AdditionalProperties::FreeForm(true);
        let version = ObjectBuilder::new().schema_type(Type::Integer);
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some(description))
            .property("version", version)
            .required("version")
            .additional_properties(Some(any))
            .into()
    };
    schemas.push(("Plan".into(), open("The output of `numavisor plan --json`.")));
    schemas.push(("Host".into(), open("The output of `numavisor host --json`.")));
    let document = ObjectBuilder::new().schema_type(Type::Object).description(Some("This document."));
    schemas.push(("OpenApi".into(), RefOr::T(document.into())));
    let mut components = ComponentsBuilder::new().schemas_from_iter(schemas).build();
    let bodies = ROUTES.iter().filter_map(|route| match route.takes {
        Media::Json(schema) => Some(schema.to_owned()),
        Media::None | Media::EventStream | Media::Prometheus => None,
    });
    let mut typed: Vec<String> = bodies.collect();
    let mut seen = BTreeSet::new();
    while let Some(name) = typed.pop() {
        if let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(&name)
            && seen.insert(name)
        {
            let names = serde_json::to_value(&*object).unwrap();
            let mut found = Vec::new();
            references(&names, &mut found);
            typed.extend(found.iter().filter_map(|name| Some(name.rsplit_once('/')?.1.to_owned())));
            let required = &object.required;
            let optional = object.properties.iter_mut().filter(|(name, _)| !required.contains(name));
            optional.for_each(|(_, schema)| may_be_null(schema));
        }
    }
    components
}

/// `null` is a field that was left out: see `strict_json`.
fn may_be_null(schema: &mut RefOr<Schema>) {
    let null = || Schema::from(ObjectBuilder::new().schema_type(Type::Null));
    let with_null = |kind: &mut SchemaType| {
        if let SchemaType::Type(one) = kind {
            *kind = SchemaType::Array(vec![one.clone(), Type::Null]);
        }
    };
    match schema {
        RefOr::Ref(reference) => {
            *schema = OneOfBuilder::new().item(reference.clone()).item(null()).into();
        }
        RefOr::T(Schema::Object(object)) => with_null(&mut object.schema_type),
        RefOr::T(Schema::Array(array)) => with_null(&mut array.schema_type),
        RefOr::T(Schema::OneOf(either)) => {
            let text = serde_json::to_value(&*either).unwrap().to_string();
            if !text.contains(r#"{"type":"null"}"#) {
                either.items.push(null().into());
            }
        }
        RefOr::T(_) => panic!("a schema that nothing typed had before"),
    }
}

/// The document as it is served.
fn text() -> String {
    document().to_pretty_json().unwrap() + "\n"
}

fn references(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(object) => {
            found.extend(object.get("$ref").and_then(|name| name.as_str()).map(str::to_owned));
            object.values().for_each(|value| references(value, found));
        }
        serde_json::Value::Array(array) => array.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn the_document_served_is_that_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/openapi.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, text()).unwrap();
    }
    let served = std::fs::read_to_string(path).unwrap();
    assert_eq!(served, text(), "openapi.json differs; UPDATE_GOLDEN=1 regenerates it");
}

#[test]
fn every_reference_leads_somewhere_and_every_route_is_there() {
    let document: serde_json::Value = serde_json::from_str(&text()).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
    let methods = |item: &serde_json::Value| item.as_object().unwrap().len();
    let documented: usize = document["paths"].as_object().unwrap().values().map(methods).sum();
    assert_eq!(documented, ROUTES.len());
    for route in &ROUTES {
        let method = route.method.as_str().to_lowercase();
        assert_eq!(document["paths"][route.path][method]["operationId"], route.name);
    }
}

#[test]
fn what_may_be_left_out_of_a_body_may_be_null() {
    let document: serde_json::Value = serde_json::from_str(&text()).unwrap();
    for name in ["VmSpec", "VnodeSpec", "DiskSpec", "PinSpec", "CacheSpec", "MoveRequest", "ReclaimRequest"] {
        let schema = &document["components"]["schemas"][name];
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (field, property) in schema["properties"].as_object().unwrap() {
            let null = property.to_string().contains(r#""null""#);
            let optional = !required.iter().any(|required| required == field);
            assert_eq!(null, optional, "{name}.{field}: {property}");
        }
    }
}
