#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::client::read_stream;
use super::*;

const PAUSE: Duration = Duration::from_millis(20);

/// A chat server that counts 5 + words prompt tokens and sends one token every [`PAUSE`].
fn serve(stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut length = 0;
        for line in reader.by_ref().lines() {
            let Ok(line) = line else { return };
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        if length == 0 {
            return;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let tokens = body["max_tokens"].as_u64().unwrap();
        assert_eq!((&body["min_tokens"], &body["ignore_eos"]), (&tokens.into(), &true.into()));
        let prompt = 5 + body["messages"][0]["content"].as_str().unwrap().split_whitespace().count();
        let mut send = |data: &str| {
            let event = format!("data: {data}\n\n");
            let _ = write!(stream, "{:x}\r\n{event}\r\n", event.len()).and_then(|()| stream.flush());
        };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        reader.get_mut().write_all(head.as_bytes()).unwrap();
        send(r#"{"choices":[{"index":0,"delta":{"role":"assistant"}}]}"#);
        for _ in 0..tokens {
            std::thread::sleep(PAUSE);
            send(r#"{"choices":[{"index":0,"delta":{"content":" a"}}],"usage":null}"#);
        }
        send(&format!(
            r#"{{"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{tokens},"prompt_tokens_details":{{"cached_tokens":4}}}}}}"#
        ));
        send("[DONE]");
        let _ = stream.write_all(b"0\r\n\r\n");
    }
}

fn client() -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    let timeout = Duration::from_secs(20);
    Client::new(ClientOptions { url, model: "default".into(), api_key: None, temperature: 0.0, timeout })
}

#[test]
fn prompts_have_the_wanted_length_and_a_shared_prefix() {
    let client = client();
    let mut prompts = Prompts::calibrate(&client, 1).unwrap();
    let answer = client.ask(&prompts.of_tokens(200), 1, &mut |_| ()).unwrap();
    assert_eq!(answer.prompt_tokens, 200);
    let batch = prompts.batch(3, 50, 30);
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&batch[0]).len(), 50 - 5 + 30);
    assert_eq!(words(&batch[0])[..30], words(&batch[1])[..30]);
    assert_ne!(words(&batch[0])[30..], words(&batch[1])[30..]);
}

#[test]
fn figures_are_those_of_the_server() {
    let client = client();
    let mut prompts = Prompts::calibrate(&client, 1).unwrap();
    let load = run(&client, 4, prompts.batch(8, 20, 0), 10);
    let report = Report::new(&load, 4, 10, Some(std::process::id()));
    assert_eq!((report.requests, report.failed, report.short_outputs), (8, 0, 0));
    let about = |value: f64, wanted: f64| (wanted * 0.99..wanted * 2.0).contains(&value);
    let pause = PAUSE.as_secs_f64();
    assert!(about(report.itl_ms.unwrap().p50, pause * 1e3), "{report:?}");
    assert!(about(report.ttft_ms.unwrap().p50, pause * 1e3), "{report:?}");
    assert!(about(report.wall_s, 2.0 * 10.0 * pause), "{report:?}");
    assert!(about(1.0 / report.decode_tok_s.unwrap().p50, pause), "{report:?}");
    assert!(about(16.0 / report.prefill_tok_s.unwrap().p50, pause), "20 prompt tokens less 4 cached: {report:?}");
    assert!((report.output_tok_s - 80.0 / report.wall_s).abs() < 1e-9);
    assert!(report.resident_mib.unwrap()[0] > 1.0);
    let text = table(&[report], crate::lang::Lang::Ru);
    assert!(text.contains("клиенты") && text.lines().count() == 2, "{text}");
}

#[test]
fn a_stall_is_the_worst_gap_while_the_long_prompt_waits() {
    let client = client();
    let mut prompts = Prompts::calibrate(&client, 1).unwrap();
    let stall = Stall { streams: 2, prompt_tokens: 20, output_tokens: 40, long_prompt_tokens: 100 };
    let report = measure_stall(&client, &mut prompts, stall).unwrap();
    assert_eq!(report.long_prompt_tokens, 100);
    assert!(report.worst_gap_ms >= 20.0 && report.worst_gap_ms < 60.0, "{report:?}");
    let too_short = Stall { output_tokens: 16, ..stall };
    assert!(measure_stall(&client, &mut prompts, too_short).unwrap_err().to_string().contains("more output tokens"));
}

#[test]
fn percentiles_are_interpolated() {
    let spread = Spread::of((1..=5).map(f64::from)).unwrap();
    assert_eq!((spread.mean, spread.p50), (3.0, 3.0));
    assert!((spread.p95 - 4.8).abs() < 1e-9 && (spread.p99 - 4.96).abs() < 1e-9);
    assert_eq!(Spread::of(std::iter::empty()), None);
}

#[test]
fn broken_streams_are_errors() {
    let read = |text: &str| read_stream(text.as_bytes(), Instant::now(), &mut |_| ());
    let token = r#"data: {"choices":[{"delta":{"content":"a"}}]}"#;
    assert_eq!(read(&format!("{token}\n\ndata: [DONE]\n")).unwrap().completion_tokens, 1);
    for (text, wanted) in [
        (token.to_owned(), "without [DONE]"),
        ("data: [DONE]\n".to_owned(), "no token"),
        (format!("{token}\n\ndata: {{\"error\":{{\"message\":\"no memory\"}}}}\n"), "no memory"),
        ("data: {\n".to_owned(), "not JSON"),
    ] {
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn refusals_carry_status_and_body() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nbusy");
    });
    let timeout = Duration::from_secs(5);
    let client = Client::new(ClientOptions { url, model: "m".into(), api_key: None, temperature: 0.0, timeout });
    let error = client.ask("a", 1, &mut |_| ()).unwrap_err();
    assert_eq!(error, RequestError::Status { status: 429, body: "busy".into() });
}
