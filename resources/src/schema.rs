//! OpenAPI schemas of configuration types that the derive macro cannot describe: sizes, lists, enumerations.

use crate::cpu_list::CpuList;
use crate::diagnosis::ErrorKind;
use crate::set::IdSet;
use crate::spec::{SerialSpec, Switch, VnodeCount};
use crate::units::Bytes;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

type SchemaOf = RefOr<Schema>;

fn number() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0))
}

fn text(pattern: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern))
}

/// An enumeration.
pub fn words(words: &'static [&'static str]) -> SchemaOf {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.iter().copied())).into()
}

impl PartialSchema for ErrorKind {
    fn schema() -> SchemaOf {
        let names = ErrorKind::ALL.iter().map(|kind| kind.name());
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
    }
}

impl ToSchema for ErrorKind {}

impl PartialSchema for Bytes {
    fn schema() -> SchemaOf {
        let bytes = number().format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)));
        let size = text("^[0-9]+([KkMmGgTt]|[KMGT]iB)?$");
        let description =
            "Bytes as a number, or a size with K, M, G or T (powers of 1024): 536870912 or \"512M\".";
        OneOfBuilder::new().item(bytes).item(size).description(Some(description)).into()
    }
}

impl ToSchema for Bytes {}

impl<T> PartialSchema for IdSet<T> {
    fn schema() -> SchemaOf {
        let list = || text("^\\[?([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?\\]?$");
        let items = OneOfBuilder::new().item(number()).item(list());
        let description = "One number, an array of numbers, or a Linux list such as \"0-3,8\".";
        OneOfBuilder::new()
            .item(number())
            .item(list())
            .item(ArrayBuilder::new().items(items))
            .description(Some(description))
            .into()
    }
}

impl<T> ToSchema for IdSet<T> {
    fn name() -> std::borrow::Cow<'static, str> {
        "IdSet".into()
    }
}

impl PartialSchema for CpuList {
    fn schema() -> SchemaOf {
        let description =
            "Host CPUs: numbers and ranges, `all`, `node:N`, `nodes:N-M`, `^` before what is taken out.";
        let list = ObjectBuilder::new().schema_type(Type::String);
        OneOfBuilder::new().item(number()).item(list).description(Some(description)).into()
    }
}

impl ToSchema for CpuList {}

impl PartialSchema for Switch {
    fn schema() -> SchemaOf {
        let switch = ObjectBuilder::new().schema_type(Type::Boolean);
        let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["on", "off"]));
        OneOfBuilder::new().item(switch).item(word).into()
    }
}

impl ToSchema for Switch {}

impl PartialSchema for SerialSpec {
    fn schema() -> SchemaOf {
        text("^(stdio|none|file=.+)$").into()
    }
}

impl ToSchema for SerialSpec {}

impl PartialSchema for VnodeCount {
    fn schema() -> SchemaOf {
        OneOfBuilder::new().item(number()).item(words(&["auto"])).into()
    }
}

impl ToSchema for VnodeCount {}
