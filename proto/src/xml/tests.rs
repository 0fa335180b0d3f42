//! The codec against itself, against hostile documents, and against what known clients send.

use super::*;
use crate::limits::NESTING_MAX;
use serde_json::{Map, json};

/// A call with one value, as text.
fn call_of(value: &str) -> String {
    format!(
        "<?xml version='1.0'?>\n<methodCall>\n<methodName>m</methodName>\n<params>\n<param>\n\
         {value}\n</param>\n</params>\n</methodCall>\n"
    )
}

fn read(value: &str) -> Result<Value, XmlError> {
    parse_call(call_of(value).as_bytes()).map(|call| call.params.into_iter().next().unwrap())
}

/// A small generator (xorshift64*), so that the crate's tests need no more than its own parts.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
    }

    fn text(&mut self) -> String {
        const CHARS: [char; 16] = [
            'a',
            ' ',
            '\n',
            '\r',
            '\t',
            '<',
            '>',
            '&',
            '"',
            '\'',
            ']',
            ';',
            'é',
            '€',
            '\u{1f600}',
            '\u{fffd}',
        ];
        (0..self.below(8)).map(|_| CHARS[self.below(16) as usize]).collect()
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 7 } else { 9 }) {
            0 => Value::Null,
            1 => Value::Bool(self.below(2) == 0),
            2 => json!(self.below(u64::MAX) as i64 >> self.below(63)),
            3 => json!(f64::from_bits(self.below(u64::MAX) << 16)),
            4 => json!({ BASE64_KEY: "aGVsbG8=" }),
            5 | 6 => Value::String(self.text()),
            7 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                let members = (0..self.below(4)).map(|_| (self.text(), self.value(depth - 1)));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut draw = Draw(0x7e5eed);
    for round in 0..3_000 {
        let params: Vec<Value> = (0..draw.below(4)).map(|_| draw.value(4)).collect();
        let call = Call { method: "job_exec".to_owned(), params };
        let document = write_call(&call.method, &call.params);
        assert_eq!(parse_call(&document).as_ref(), Ok(&call), "round {round}");
        let value = Value::Array(call.params);
        assert_eq!(parse_response(&write_response(&value)), Ok(value), "round {round}");
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut draw = Draw(0xbad5eed);
    let whole = write_call("m", &[draw.value(5), json!({"a": [1, {"b": null}]}), json!("]]>&")]);
    for _ in 0..20_000 {
        let mut body = whole.clone();
        for _ in 0..=draw.below(3) {
            let at = draw.below(body.len() as u64) as usize;
            match draw.below(4) {
                0 => body[at] = draw.below(256) as u8,
                1 => drop(body.remove(at)),
                2 => body.truncate(at.max(1)),
                _ => body.insert(at, b"<>&/;!?[]-"[draw.below(10) as usize]),
            }
        }
        let _ = (parse_call(&body), parse_response(&body));
    }
    for length in 0..200 {
        let body: Vec<u8> = (0..length).map(|_| draw.below(256) as u8).collect();
        let _ = (parse_call(&body), parse_response(&body));
    }
}

#[test]
fn every_type_of_every_client_is_read() {
    for (sent, expected) in [
        ("<value><nil/></value>", json!(null)),
        ("<value><ex:nil xmlns:ex='http://x/'/></value>", json!(null)),
        ("<value><i4> -7 </i4></value>", json!(-7)),
        ("<value>\n  <int>+3</int>\n</value>", json!(3)),
        ("<value><i8>9223372036854775807</i8></value>", json!(i64::MAX)),
        ("<value><boolean>1</boolean></value>", json!(true)),
        ("<value><double>-1.5e3</double></value>", json!(-1500.0)),
        ("<value><string/></value>", json!("")),
        ("<value/>", json!("")),
        ("<value></value>", json!("")),
        ("<value>  two\r\nlines </value>", json!("  two\nlines ")),
        (
            "<value><string>a<!-- no -->b<?pi no?>&#x20AC;&lt;&quot;</string></value>",
            json!("ab€<\""),
        ),
        ("<value><![CDATA[<&]]>]<![CDATA[]]></value>", json!("<&]")),
        ("<value><base64>\naGVs\nbG8=\n</base64></value>", json!({"base64": "aGVsbG8="})),
        (
            "<value><dateTime.iso8601>20261120T04:05:06</dateTime.iso8601></value>",
            json!("2026-11-20T04:05:06.000000Z"),
        ),
        ("<value><array><data/></array></value>", json!([])),
        ("<value><array><data> <value>1</value> </data> </array></value>", json!(["1"])),
        (
            "<value><struct><member><name></name><value>1</value></member><member>\n\
             <name/>\n<value><int>2</int></value></member></struct></value>",
            json!({"": 2}),
        ),
    ] {
        assert_eq!(read(sent), Ok(expected), "{sent}");
    }
}

#[test]
fn a_call_without_params_is_a_call() {
    for body in [
        "<methodCall><methodName>a.b</methodName></methodCall>",
        "\u{feff}<methodCall><methodName> a.b </methodName><params/></methodCall><!-- -->\n",
        " \n<?xml version=\"1.0\"?><!-- --><methodCall><methodName>a.b</methodName></methodCall>",
    ] {
        assert_eq!(
            parse_call(body.as_bytes()),
            Ok(Call { method: "a.b".to_owned(), params: Vec::new() })
        );
    }
}

#[test]
fn latin_1_is_read_where_it_is_declared() {
    let call = |encoding: &str| {
        let mut body = format!("<?xml version=\"1.0\" encoding='{encoding}' ?>").into_bytes();
        body.extend(b"<methodCall><methodName>m</methodName><params><param><value>M\xfcller");
        body.extend(b"</value></param></params></methodCall>");
        parse_call(&body).map(|call| call.params)
    };
    assert_eq!(call("ISO-8859-1"), Ok(vec![json!("Müller")]));
    assert_eq!(call("UTF-8"), Err(XmlError::NotUtf8 { at: 100 }));
    assert_eq!(call("UTF-7"), Err(XmlError::Encoding));
    assert_eq!(parse_call(b"\xff\xfe<\0"), Err(XmlError::Encoding));
}

#[test]
fn nesting_is_counted_in_values() {
    let nested = |levels: usize| {
        let (open, close) = ("<value><array><data>", "</data></array></value>");
        open.repeat(levels - 1) + "<value>x</value>" + &close.repeat(levels - 1)
    };
    assert!(read(&nested(NESTING_MAX)).is_ok());
    assert_eq!(read(&nested(NESTING_MAX + 1)), Err(XmlError::TooDeep { limit: NESTING_MAX }));
    assert_eq!(read(&nested(100_000)), Err(XmlError::TooDeep { limit: NESTING_MAX }));
    let unclosed = "<methodCall><methodName>".to_owned() + &"<value>".repeat(100_000);
    assert!(parse_call(unclosed.as_bytes()).is_err());
    assert_eq!(XmlError::TooDeep { limit: 64 }.code(), ErrorCode::ParseError);
}

#[test]
fn documents_that_try_something_are_refused() {
    let bomb = "<!DOCTYPE m [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]>";
    let body = call_of("<value>&b;</value>").replacen(
        "<methodCall>",
        &(bomb.to_owned() + "<methodCall>"),
        1,
    );
    assert_eq!(parse_call(body.as_bytes()), Err(XmlError::Doctype));
    assert!(matches!(read("<value>&b;</value>"), Err(XmlError::UnknownEntity { .. })));
    assert!(matches!(read("<value>&#0;</value>"), Err(XmlError::Character { .. })));
    assert!(matches!(read("<value>&#xD800;</value>"), Err(XmlError::Character { .. })));
    assert!(matches!(read("<value>a\u{1}b</value>"), Err(XmlError::Character { .. })));
    assert!(matches!(read("<value>a & b</value>"), Err(XmlError::Malformed { .. })));
    assert!(matches!(
        read("<value><?xml version='1.0'?></value>"),
        Err(XmlError::Malformed { .. })
    ));
}

#[test]
fn an_error_says_what_was_expected_and_repeats_nothing() {
    const SECRET: &str = "hunter2";
    for (body, code) in [
        ("<hunter2/>".to_owned(), ErrorCode::InvalidRequest),
        ("<methodCall><hunter2/></methodCall>".to_owned(), ErrorCode::InvalidRequest),
        ("<methodCall>hunter2</methodCall>".to_owned(), ErrorCode::InvalidRequest),
        ("<methodCall></methodCall>".to_owned(), ErrorCode::InvalidRequest),
        ("<methodCall><methodName/></methodCall>".to_owned(), ErrorCode::InvalidRequest),
        ("<methodCall><methodName>hunter2</hunter2>".to_owned(), ErrorCode::ParseError),
        ("<methodCall><methodName>hunter2".to_owned(), ErrorCode::ParseError),
        (call_of("hunter2"), ErrorCode::InvalidRequest),
        (call_of("<value><int>hunter2</int></value>"), ErrorCode::InvalidRequest),
        (call_of("<value><int>9223372036854775808</int></value>"), ErrorCode::InvalidRequest),
        (call_of("<value><boolean>2</boolean></value>"), ErrorCode::InvalidRequest),
        (call_of("<value><double>NaN</double></value>"), ErrorCode::InvalidRequest),
        (call_of("<value><double>1e999</double></value>"), ErrorCode::InvalidRequest),
        (call_of("<value><base64>hunter2</base64></value>"), ErrorCode::InvalidRequest),
        (call_of("<value><hunter2/></value>"), ErrorCode::InvalidRequest),
        (call_of("<value>hunter2<int>1</int></value>"), ErrorCode::InvalidRequest),
        (call_of("<value><int>1</int>hunter2</value>"), ErrorCode::InvalidRequest),
        (call_of("<value><array><value/></array></value>"), ErrorCode::InvalidRequest),
        (call_of("<value/>") + "<hunter2/>", ErrorCode::InvalidRequest),
        (call_of("<value>&hunter2;</value>"), ErrorCode::ParseError),
        ("<hunter2".to_owned(), ErrorCode::ParseError),
        (String::new(), ErrorCode::ParseError),
    ] {
        let error = parse_call(body.as_bytes()).expect_err(&body);
        assert_eq!(error.code(), code, "{body}: {error}");
        assert!(!error.to_string().contains(SECRET) && !format!("{error:?}").contains(SECRET));
    }
}

#[test]
fn results_have_the_forms_that_clients_expect() {
    let value = json!([null, true, 1, -2147483649_i64, u64::MAX, 1e21, {"base64": "aGk="}]);
    let body = String::from_utf8(write_response(&value)).unwrap();
    for part in [
        "<value><nil/></value>",
        "<value><boolean>1</boolean></value>",
        "<value><int>1</int></value>",
        "<value><i8>-2147483649</i8></value>",
        "<value><string>18446744073709551615</string></value>",
        "<value><double>1000000000000000000000</double></value>",
        "<value><base64>aGk=</base64></value>",
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
    let odd =
        json!(["\u{0}\u{1b}[0m\u{ffff}", {"base64": "no base64"}, {"base64": "aGk=", "n": 1}]);
    let read = parse_response(&write_response(&odd)).unwrap();
    assert_eq!(read[0], json!("\u{fffd}\u{fffd}[0m\u{fffd}"));
    assert_eq!((&read[1], &read[2]), (&odd[1], &odd[2]));
}

#[test]
fn a_fault_carries_the_field_and_the_hint() {
    let fault = |code, message: &str| {
        Err(ResponseError::Fault(Fault { code, message: message.to_owned() }))
    };
    assert_eq!(parse_response(&write_fault(-32603, "a < b")), fault(-32603, "a < b"));
    let error = RpcError::new(ErrorCode::InvalidParameter, "`nme` is unknown").field("nme");
    let expected = "`nme` is unknown (field: nme; hint: did you mean `name`?)";
    let hinted = error.clone().hint("did you mean `name`?");
    assert_eq!(parse_response(&write_error(&hinted)), fault(-32002, expected));
    assert_eq!(fault_value(&error)["faultString"], "`nme` is unknown (field: nme)");
    let not_a_fault = b"<methodResponse><fault><value>x</value></fault></methodResponse>";
    assert!(matches!(parse_response(not_a_fault), Err(ResponseError::Document(_))));
}
