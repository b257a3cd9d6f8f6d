//! What each message of the protocol takes in memory once it is decoded: from the descriptors, so that a new call or field
//! is known like the others.

use std::collections::HashMap;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Smallest piece of memory that is given out, with what it is known by.
const PIECE: usize = 32;
/// Elements that a list has room for with the first one; from then on it doubles.
const FIRST_ROOM: usize = 4;
/// Entries that a map has room for with the first one; from then on its pieces are half full at least.
const FIRST_ENTRIES: usize = 12;
/// A list or a map without elements.
const EMPTY: usize = 24;

/// Bytes that a message within its own kind is taken for: its size is not known yet when it is met.
const WITHIN_ITS_KIND: usize = 256;

/// Number of a message.
pub(super) type ShapeId = usize;

/// All messages, and which of them each call takes.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    by_call: HashMap<String, ShapeId>,
    all: Vec<Shape>,
}

#[derive(Debug, Default)]
struct Shape {
    size: usize,
    /// By their numbers.
    fields: Vec<Field>,
}

/// One field of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) kind: Kind,
    /// Bytes that it takes beyond its message, when it comes first and when it comes again.
    pub(super) first: usize,
    pub(super) again: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such field, or nothing in it takes memory of its own.
    #[default]
    Plain,
    /// Its parts have fields of their own.
    Message(ShapeId),
    /// Numbers; those that come together take so many times the bytes that came.
    Numbers { together: usize },
}

impl Shapes {
    /// Of an encoded `FileDescriptorSet`; of none if it cannot be read.
    pub(super) fn of(descriptors: &[u8]) -> Self {
        let files = FileDescriptorSet::decode(descriptors).unwrap_or_default().file;
        let mut found = HashMap::new();
        for file in &files {
            collect(&format!(".{}", file.package()), &file.message_type, &mut found);
        }
        let mut building = Building { found, ids: HashMap::new(), all: vec![] };
        let mut by_call = HashMap::new();
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    by_call.insert(path, building.message(method.input_type()));
                }
            }
        }
        Self { by_call, all: building.all.into_iter().map(|shape| shape.unwrap_or_default()).collect() }
    }

    /// The message that the call of that path takes, if it is one of these.
    pub(super) fn call(&self, path: &str) -> Option<ShapeId> {
        self.by_call.get(path).copied()
    }

    /// Bytes of a message without anything in it.
    pub(super) fn size(&self, id: ShapeId) -> usize {
        self.all.get(id).map_or(0, |shape| shape.size)
    }

    pub(super) fn field(&self, id: ShapeId, number: usize) -> Field {
        self.all.get(id).and_then(|shape| shape.fields.get(number)).copied().unwrap_or_default()
    }
}

fn collect<'a>(scope: &str, messages: &'a [DescriptorProto], into: &mut HashMap<String, &'a DescriptorProto>) {
    for message in messages {
        let name = format!("{scope}.{}", message.name());
        collect(&name, &message.nested_type, into);
        into.insert(name, message);
    }
}

struct Building<'a> {
    found: HashMap<String, &'a DescriptorProto>,
    ids: HashMap<&'a str, ShapeId>,
    /// `None`: it is looked at right now, and so part of itself.
    all: Vec<Option<Shape>>,
}

impl<'a> Building<'a> {
    fn message(&mut self, name: &'a str) -> ShapeId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.all.len();
        self.ids.insert(name, id);
        self.all.push(None);
        let mut shape = Shape::default();
        // Of those that exclude each other the largest counts.
        let mut one_of: HashMap<i32, usize> = HashMap::new();
        for field in self.found.get(name).map(|message| &message.field[..]).unwrap_or_default() {
            let (size, known) = self.field(field);
            match field.oneof_index {
                Some(group) => {
                    let largest = one_of.entry(group).or_default();
                    *largest = size.max(*largest);
                }
                None => shape.size += size,
            }
            let number = usize::try_from(field.number()).unwrap_or_default();
            if shape.fields.len() <= number {
                shape.fields.resize(number + 1, Field::default());
            }
            shape.fields[number] = known;
        }
        shape.size += one_of.values().map(|size| size + 8).sum::<usize>();
        shape.size = shape.size.next_multiple_of(8);
        self.all[id] = Some(shape);
        id
    }

    /// Its size within its message, and what it takes beyond.
    fn field(&mut self, field: &'a FieldDescriptorProto) -> (usize, Field) {
        let repeated = field.label() == Label::Repeated;
        match field.r#type() {
            Type::Message => self.part(field.type_name(), repeated),
            Type::String | Type::Bytes => {
                let size = if field.r#type() == Type::String { 24 } else { 32 };
                match repeated {
                    true => {
                        let (first, again) = (FIRST_ROOM * size + PIECE, 2 * size + PIECE);
                        (EMPTY, Field { kind: Kind::Plain, first, again })
                    }
                    false => (size, Field { kind: Kind::Plain, first: PIECE, again: PIECE }),
                }
            }
            number => {
                // In memory, and the least on the wire.
                let (size, least) = match number {
                    Type::Double | Type::Fixed64 | Type::Sfixed64 => (8, 8),
                    Type::Float | Type::Fixed32 | Type::Sfixed32 => (4, 4),
                    Type::Bool => (1, 1),
                    Type::Int64 | Type::Uint64 | Type::Sint64 => (8, 1),
                    _ => (4, 1),
                };
                let (first, again) = (2 * FIRST_ROOM * size, 2 * size);
                match repeated {
                    true => (EMPTY, Field { kind: Kind::Numbers { together: 2 * size / least }, first, again }),
                    false => (if field.proto3_optional() { 2 * size } else { size }, Field::default()),
                }
            }
        }
    }

    fn part(&mut self, name: &'a str, repeated: bool) -> (usize, Field) {
        let id = self.message(name);
        let is_entry = self.found.get(name).is_some_and(|m| m.options.as_ref().is_some_and(|o| o.map_entry()));
        let size = self.all.get(id).and_then(Option::as_ref).map(|shape| shape.size);
        let of = |first, again| Field { kind: Kind::Message(id), first, again };
        match (size, repeated) {
            // Within its own kind, so in a piece of its own; how large it is will be known later.
            (None, false) => (8, of(WITHIN_ITS_KIND, WITHIN_ITS_KIND)),
            (None, true) => (EMPTY, of(FIRST_ROOM * WITHIN_ITS_KIND, 2 * WITHIN_ITS_KIND)),
            (Some(size), true) if is_entry => (EMPTY, of(FIRST_ENTRIES * size + PIECE, 2 * size)),
            (Some(size), true) => (EMPTY, of(FIRST_ROOM * size + PIECE, 2 * size)),
            (Some(size), false) => (size + 8, of(0, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use omma_proto::v1 as pb;

    use super::*;

    fn shapes() -> Shapes {
        Shapes::of(omma_proto::DESCRIPTORS)
    }

    fn part(shapes: &Shapes, id: ShapeId, field: usize) -> ShapeId {
        match shapes.field(id, field).kind {
            Kind::Message(id) => id,
            other => panic!("field {field} is {other:?}"),
        }
    }

    #[test]
    fn sizes_are_what_the_compiler_makes_of_them_or_a_little_more() {
        let shapes = shapes();
        let [search, batch, put, get] = ["Search", "BatchSearch", "PutImages", "BatchGetImages"].map(|rpc| {
            let service = if rpc.contains("Search") { "Search" } else { "Image" };
            shapes.call(&format!("/omma.v1.{service}Service/{rpc}")).unwrap()
        });
        let (query, image) = (part(&shapes, batch, 2), part(&shapes, put, 2));
        let filter = part(&shapes, query, 6);
        for (id, real) in [
            (search, size_of::<pb::SearchRequest>()),
            (batch, size_of::<pb::BatchSearchRequest>()),
            (put, size_of::<pb::PutImagesRequest>()),
            (get, size_of::<pb::BatchGetImagesRequest>()),
            (query, size_of::<pb::Query>()),
            (image, size_of::<pb::NewImage>()),
            (filter, size_of::<pb::Filter>()),
            (part(&shapes, image, 4), size_of::<(String, pb::AttributeValue)>()),
        ] {
            assert!((real..2 * real).contains(&shapes.size(id)), "{} for {real}", shapes.size(id));
        }
        assert!(shapes.call("/grpc.health.v1.Health/Check").is_none());
    }

    #[test]
    fn what_is_within_its_own_kind_is_no_larger_than_thought() {
        let shapes = shapes();
        let mut looked = 0;
        for field in shapes.all.iter().flat_map(|shape| &shape.fields) {
            let Kind::Message(id) = field.kind else { continue };
            if [WITHIN_ITS_KIND, FIRST_ROOM * WITHIN_ITS_KIND].contains(&field.first) {
                assert!(shapes.size(id) <= WITHIN_ITS_KIND, "{}", shapes.size(id));
                looked += 1;
            }
        }
        assert!(looked >= 2, "{looked}");
    }
}
