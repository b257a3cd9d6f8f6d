use std::sync::LazyLock;
use std::task::{Context, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use omma_proto::v1 as pb;
use proptest::prelude::*;
use prost::Message;
use tonic::Code;
use tower::{Layer, ServiceExt};

use super::weigh::Weigh;
use super::*;
use crate::error::{Reason, metadata_of, reason_of};
use crate::limits::MAX_DECODED_BYTES;

static REFUSED: LazyLock<Counter> = LazyLock::new(|| Counter::new("omma_test_refused_total", "Refused."));

const BATCH: &str = "/omma.v1.SearchService/BatchSearch";
const PUT: &str = "/omma.v1.ImageService/PutImages";

fn at_most(bytes: usize) -> Arriving {
    Arriving::new(bytes, REFUSED.clone())
}

/// On its way in a call that is none of the protocol's, if `path` is empty.
fn counting(arriving: &Arriving, client: u64, path: &str) -> (Counting, MessageParts) {
    let kept = MessageParts::new(arriving.memory.clone());
    let message = arriving.shapes.call(path);
    (Counting::new(Body::empty(), arriving.clone(), client, message, kept.clone()), kept)
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

#[test]
fn of_unknown_calls_only_halves_count() {
    let bytes = [framed(&[7; 100]), framed(&[]), framed(&[7; 3]), framed(&[7; 50])].concat();
    for step in [1, 2, 7, 60, bytes.len()] {
        let arriving = at_most(1000);
        let (mut body, _kept) = counting(&arriving, 1, "");
        for (n, piece) in bytes.chunks(step).enumerate() {
            body.count(piece).unwrap();
            let sent = bytes.len().min((n + 1) * step);
            let begin = [173, 118, 110, 105, 0].into_iter().find(|end| *end <= sent).unwrap();
            assert_eq!(arriving.memory.taken(), sent - begin, "step {step}, {sent} sent");
        }
        body.count(&framed(&[7; 9])[..8]).unwrap();
        assert_eq!(arriving.memory.taken(), 8);
        drop(body);
        assert_eq!((arriving.memory.taken(), arriving.halves.count()), (0, 0));
    }
}

#[test]
fn a_whole_message_keeps_its_part_until_it_is_taken_and_dropped() {
    let arriving = at_most(1 << 20);
    let (mut body, kept) = counting(&arriving, 1, "/omma.v1.ImageService/IngestImages");
    let message =
        framed(&pb::IngestImagesRequest { collection: "c".repeat(1000), ..Default::default() }.encode_to_vec());
    body.count(&message.repeat(3)).unwrap();
    let all = arriving.memory.taken();
    assert!(all > 3000 && all.is_multiple_of(3), "{all}");
    let first = kept.next().unwrap();
    assert_eq!((first.size(), arriving.memory.taken()), (all / 3, all));
    drop(first);
    assert_eq!(arriving.memory.taken(), all / 3 * 2);
    drop((body, kept));
    assert_eq!(arriving.memory.taken(), 0);
}

#[test]
fn the_oldest_half_gives_way_of_those_who_have_as_much() {
    let arriving = at_most(1000);
    let message = framed(&[7; 5000]);
    let (mut slow, _) = counting(&arriving, 1, "");
    let (mut other, _) = counting(&arriving, 1, "");
    slow.count(&message[..200]).unwrap();
    other.count(&message[..310]).unwrap();
    // As much is free as they have, and no more.
    let (mut quick, _) = counting(&arriving, 1, "");
    let before = REFUSED.get();
    quick.count(&message[..200]).unwrap();
    let gives_way =
        |body: &Counting| arriving.halves.gives_way(body.half.unwrap(), &Context::from_waker(Waker::noop()));
    assert!(gives_way(&slow) && !gives_way(&other) && !gives_way(&quick));
    assert_eq!(reason_of(&slow.count(&[7]).unwrap_err()), Some(Reason::Overloaded));
    // Other tests count, too.
    assert!(REFUSED.get() > before);
    // Whoever has less is not what gives way, nor does it wait for its turn.
    let (mut polite, _) = counting(&arriving, 2, "");
    polite.count(&message[..400]).unwrap();
    let (mut greedy, _) = counting(&arriving, 1, "");
    assert!(greedy.count(&message[..300]).is_ok() && gives_way(&other) && !gives_way(&polite));
    drop((slow, other, quick, polite, greedy));
    assert_eq!((arriving.memory.taken(), arriving.halves.count()), (0, 0));
}

/// What is whole never gives way, however old: what is new is refused.
#[test]
fn whole_messages_stay_and_leave_room_to_others() {
    let arriving = at_most(10_000);
    let message = framed(&pb::PutImagesRequest { collection: "c".repeat(900), ..Default::default() }.encode_to_vec());
    let mut served = vec![];
    let refusal = loop {
        let (mut body, kept) = counting(&arriving, 1, PUT);
        match body.count(&message) {
            Ok(()) => served.push(kept),
            Err(refusal) => break refusal,
        }
    };
    assert!((4..8).contains(&served.len()), "{}", served.len());
    assert_eq!((reason_of(&refusal), refusal.code()), (Some(Reason::Overloaded), Code::ResourceExhausted));
    assert_eq!(metadata_of(&refusal, "limit_name").as_deref(), Some("max-arriving-mib"));
    assert!(tonic_types::StatusExt::get_details_retry_info(&refusal).is_some());
    let (mut polite, _kept) = counting(&arriving, 2, PUT);
    polite.count(&message).unwrap();
}

#[tokio::test]
async fn a_request_counts_until_it_is_answered_and_its_answer_until_it_is_sent() {
    let arriving = at_most(1 << 20);
    let memory = arriving.memory.clone();
    let service = arriving.layer(tower::service_fn(move |request: Request<Body>| {
        let memory = memory.clone();
        async move {
            let kept = request.extensions().get::<MessageParts>().cloned().unwrap();
            request.into_body().collect().await.unwrap();
            assert!(memory.taken_by(7) > 1000, "{}", memory.taken());
            let mut answer = Response::new(Body::new("x".repeat(200_000)));
            answer.extensions_mut().insert(kept.answer(7, 200_000).unwrap());
            assert!(kept.answer(7, 2 << 20).is_err() && kept.answer(7, SMALL_ANSWER).is_ok());
            Ok::<_, std::convert::Infallible>(answer)
        }
    }));
    let message = framed(&pb::PutImagesRequest { collection: "c".repeat(1000), ..Default::default() }.encode_to_vec());
    let mut request = Request::post(PUT).body(Body::new(Full::from(message))).unwrap();
    request.extensions_mut().insert(Whose(7));
    let answer = service.oneshot(request).await.unwrap();
    let (mut body, mut sent) = (answer.into_body(), 0);
    while let Some(frame) = body.frame().await {
        assert_eq!(arriving.memory.taken_by(7), 200_000);
        sent += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!((sent, arriving.memory.taken()), (200_000, 0));
}

/// All that one client's calls at once can get beyond its share.
#[test]
fn answers_that_are_never_refused_are_little_together() {
    let memory = Fair::new(64 << 20);
    let kept = MessageParts::new(memory.clone());
    let large: Vec<_> = std::iter::from_fn(|| kept.answer(1, SMALL_ANSWER + 1).ok()).collect();
    assert!(!large.is_empty() && memory.taken() <= 33 << 20, "{}", memory.taken());
    let small: Vec<_> = (0..512).map(|_| kept.answer(1, SMALL_ANSWER).unwrap()).collect();
    assert!(memory.taken() <= 41 << 20, "{}", memory.taken());
    assert!(kept.answer(2, 20 << 20).is_ok(), "another client finds room");
    drop((large, small));
}

/// What came whole before a message that is refused is handed on.
#[tokio::test]
async fn a_refusal_comes_after_the_messages_before_it() {
    let arriving = at_most(1 << 20);
    let whole = framed(&pb::IngestImagesRequest { collection: "c".into(), ..Default::default() }.encode_to_vec());
    let bytes = [&whole[..], &framed(&[0xFF; 100])].concat();
    let kept = MessageParts::new(arriving.memory.clone());
    let message = arriving.shapes.call("/omma.v1.ImageService/IngestImages");
    let mut body = Counting::new(Body::new(Full::from(bytes)), arriving.clone(), 1, message, kept.clone());
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), whole);
    assert_eq!(reason_of(&body.frame().await.unwrap().unwrap_err()), Some(Reason::InvalidArgument));
    assert!(kept.next().is_some() && kept.next().is_none());
}

/// Where each message is weighed and nothing else, streams may last for ever.
#[test]
fn without_a_budget_nothing_is_kept() {
    let arriving = Arriving::each(1 << 20);
    let (mut body, kept) = counting(&arriving, 1, "/omma.internal.v1.RaftService/StreamAppend");
    body.count(&framed(&[]).repeat(10)).unwrap();
    assert!(kept.next().is_none() && arriving.memory.taken() == 0 && body.half.is_none());
    let refusal = body.count(&framed(&[0x2A, 0].repeat(1 << 20))).unwrap_err();
    assert_eq!(reason_of(&refusal), Some(Reason::MessageTooLarge));
}

/// Each as large as a message may be, of the smallest parts that there are.
#[test]
fn millions_of_parts_are_refused_before_they_are_decoded() {
    let many = |part: &[u8], wrap: &[u8]| {
        let inner = part.repeat((30 << 20) / part.len());
        let mut message = inner;
        for key in wrap {
            let mut head = vec![*key];
            prost::encoding::encode_varint(message.len() as u64, &mut head);
            message = [head, message].concat();
        }
        message
    };
    let (batch, put) = (BATCH, PUT);
    for (what, path, message) in [
        ("queries", batch, many(&[0x12, 0], &[])),
        ("images", put, many(&[0x12, 0], &[])),
        ("session tokens", batch, many(&[0x22, 0], &[])),
        ("ids", "/omma.v1.ImageService/DeleteImages", many(&[0x12, 0], &[])),
        // Field 2 of InCondition, 2 of Filter, 6 of Query, 2 of SearchRequest.
        ("values", "/omma.v1.SearchService/Search", many(&[0x12, 0], &[0x12, 0x32, 0x12])),
        ("attributes", put, many(&[0x22, 0], &[0x12])),
        ("groups, one by one", "/omma.v1.BackupService/BeginBackup", many(&[0x10, 0], &[])),
        ("groups, together", "/omma.v1.BackupService/BeginBackup", many(&[0], &[0x12])),
    ] {
        let arriving = at_most(1 << 30);
        let (mut body, _kept) = counting(&arriving, 1, path);
        let (mut came, mut refusal) = (0, None);
        for piece in framed(&message).chunks(16 << 10) {
            came += piece.len();
            if let Err(error) = body.count(piece) {
                refusal = Some(error);
                break;
            }
        }
        let refusal = refusal.unwrap_or_else(|| panic!("{what}: taken"));
        assert_eq!(reason_of(&refusal), Some(Reason::MessageTooLarge), "{what}");
        assert_eq!(metadata_of(&refusal, "limit").as_deref(), Some(MAX_DECODED_BYTES.to_string().as_str()));
        assert!(came < 14 << 20, "{what}: {came} bytes came");
    }
}

/// The most that validation lets through, and the largest picture.
#[test]
fn the_largest_honest_messages_are_taken() {
    let text = |n: usize| pb::attribute_value::Kind::StringValue(format!("{n:0>900}"));
    let attributes = (0..64).map(|n| (format!("name {n}"), pb::AttributeValue { kind: Some(text(n)) })).collect();
    let embedding = pb::Embedding { values: vec![0.5; 8192] };
    let content = Some(pb::new_image::Content::Embedding(embedding.clone()));
    let image = pb::NewImage { id: "i".repeat(256), content: content.clone(), attributes };
    let images = vec![image; 200];
    let put = pb::PutImagesRequest { collection: "c".into(), images, request_id: "r".into() };
    let values = vec![pb::AttributeValue { kind: Some(pb::attribute_value::Kind::IntegerValue(7)) }; 256];
    let is_in = pb::InCondition { attribute: "a".into(), values };
    let filter = pb::Filter { condition: Some(pb::filter::Condition::IsIn(is_in)) };
    let query =
        pb::Query { target: Some(pb::query::Target::Embedding(embedding)), filter: Some(filter), ..Default::default() };
    let batch = pb::BatchSearchRequest { queries: vec![query; 64], ..Default::default() };
    let ids = pb::BatchGetImagesRequest { ids: vec!["i".repeat(256); 1000], ..Default::default() };
    let picture = pb::new_image::Content::Picture(Bytes::from(vec![7; 31 << 20]));
    let picture = pb::NewImage { id: "p".into(), content: Some(picture), attributes: Default::default() };
    let picture = pb::PutImagesRequest { images: vec![picture], ..Default::default() };
    for (path, message) in [
        (PUT, put.encode_to_vec()),
        (BATCH, batch.encode_to_vec()),
        ("/omma.v1.ImageService/BatchGetImages", ids.encode_to_vec()),
        (PUT, picture.encode_to_vec()),
    ] {
        let arriving = at_most(1 << 30);
        let (mut body, kept) = counting(&arriving, 1, path);
        framed(&message).chunks(16 << 10).for_each(|piece| body.count(piece).unwrap());
        let part = kept.next().unwrap();
        assert!(part.size() > message.len(), "{}", part.size());
    }
}

/// Of legal filters, a batch may have so many that they take too much together: as `SECURITY.md` says.
#[test]
fn filters_of_a_batch_are_taken_up_to_600_000_numbers() {
    let batch = |values: usize| {
        let values = vec![pb::AttributeValue { kind: Some(pb::attribute_value::Kind::IntegerValue(7)) }; values];
        let is_in = pb::InCondition { attribute: "a".into(), values };
        let is_in = pb::Filter { condition: Some(pb::filter::Condition::IsIn(is_in)) };
        let any = pb::FilterList { filters: vec![is_in; 63] };
        let filter = pb::Filter { condition: Some(pb::filter::Condition::AnyOf(any)) };
        let query = pb::Query { filter: Some(filter), ..Default::default() };
        let message = pb::BatchSearchRequest { queries: vec![query; 64], ..Default::default() };
        let arriving = at_most(1 << 30);
        let (mut body, _kept) = counting(&arriving, 1, BATCH);
        let counted = body.count(&framed(&message.encode_to_vec()));
        counted.map(|()| arriving.memory.taken()).map_err(|refusal| reason_of(&refusal))
    };
    // In 63 lists of each of 64 queries.
    assert!(batch(150).is_ok_and(|bytes| bytes > 32 << 20));
    assert_eq!(batch(250), Err(Some(Reason::MessageTooLarge)));
}

fn weighed(path: &str, message: &[u8], step: usize) -> Option<usize> {
    static SHAPES: LazyLock<Shapes> = LazyLock::new(|| Shapes::of(omma_proto::DESCRIPTORS));
    let mut weigh = Weigh::new(SHAPES.call(path).unwrap(), message.len() as u64);
    message.chunks(step.max(1)).map(|piece| weigh.add(&SHAPES, piece).ok()).sum()
}

/// What messages of empty parts are taken for, beside what they take.
#[test]
fn empty_parts_weigh_what_they_take_or_a_little_more() {
    let parts = |key: u8| [key, 0].repeat(100_000);
    let batch = pb::BatchSearchRequest::decode(&parts(0x12)[..]).unwrap();
    let put = pb::PutImagesRequest::decode(&parts(0x12)[..]).unwrap();
    let delete = pb::DeleteImagesRequest::decode(&parts(0x12)[..]).unwrap();
    let tokens = pb::BatchSearchRequest::decode(&parts(0x22)[..]).unwrap();
    for (path, key, real) in [
        (BATCH, 0x12, batch.queries.capacity() * size_of::<pb::Query>()),
        (PUT, 0x12, put.images.capacity() * size_of::<pb::NewImage>()),
        ("/omma.v1.ImageService/DeleteImages", 0x12, delete.ids.capacity() * size_of::<String>()),
        (BATCH, 0x22, tokens.session_tokens.capacity() * size_of::<pb::SessionToken>()),
    ] {
        let weight = weighed(path, &parts(key), usize::MAX).unwrap();
        assert!((real..4 * real).contains(&weight), "{weight} for {real}");
        assert!(real > 10 * parts(key).len(), "{real}");
    }
}

/// Keys of a few fields and lengths that fit now and then, so that some of it is a message.
fn near_messages() -> impl Strategy<Value = Vec<u8>> {
    let key = prop::sample::select(vec![0x0A_u8, 0x12, 0x1A, 0x22, 0x2A, 0x32, 0x20, 0x18, 0x0D, 0x11]);
    let piece = prop_oneof![key.prop_map(|k| vec![k]), (0u8..12).prop_map(|n| vec![n]), Just(vec![0x12, 0])];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_the_decoder_takes_can_be_weighed_in_any_pieces(bytes in near_messages(), step in 1usize..20) {
        let whole = weighed(BATCH, &bytes, usize::MAX);
        prop_assert_eq!(weighed(BATCH, &bytes, step), whole);
        if pb::BatchSearchRequest::decode(&bytes[..]).is_ok() {
            prop_assert!(whole.is_some());
        }
    }

    #[test]
    fn any_bytes_are_weighed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1usize..20) {
        let whole = weighed(PUT, &bytes, usize::MAX);
        prop_assert_eq!(weighed(PUT, &bytes, step), whole);
        if pb::PutImagesRequest::decode(&bytes[..]).is_ok() {
            prop_assert!(whole.is_some());
        }
    }
}
