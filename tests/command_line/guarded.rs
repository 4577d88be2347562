//! `hayloft` with a farm that wants a certificate and a token: another front than the
//! project's own, which takes certificates alone.

use std::fs;

use axum::Router;
use axum::extract::Request;
use daemon::{Channel, Diagnostics, Endpoint};
use serde_json::json;
use tests::authority::Authority;
use tests::desk::Desk;
use tests::farm::Farm;
use tests::user::As;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt as _;

/// Passes calls on that carry the token.
async fn pass(farm: Channel, request: Request) -> axum::response::Response {
    let token = request.headers().get("authorization");
    if token.is_none_or(|token| token != "Bearer of good news") {
        let refusal = Status::new(Code::Unauthenticated, "the token is wrong");
        return refusal.into_http();
    }
    match farm.oneshot(request.map(tonic::body::Body::new)).await {
        Ok(response) => response.map(axum::body::Body::new),
        Err(status) => status.into_http(),
    }
}

#[test]
fn a_farm_is_shown_a_certificate_and_a_token() {
    let who = As::possible()[0];
    let farm = Farm::start(who);
    let desk = Desk::of(who);
    let folder = desk.folder.path();
    let authority = Authority::new(folder, "authority");
    authority.certify("front", &["localhost"]);
    authority.certify("me", &["me"]);
    fs::write(folder.join("token"), "of good news\n").expect("a token");
    fs::write(folder.join("wrong"), "of bad news\n").expect("a token");
    for name in ["me.key", "token", "wrong"] {
        who.own(&folder.join(name));
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let endpoint: Endpoint = serde_json::from_value(json!({
        "listen_addresses": ["127.0.0.1:0"],
        "tls": {"server_key_pair": {"files": {
            "certificate_path": path("front.pem"),
            "private_key_path": path("front.key"),
        }}},
        "authentication_policy": {"tls_client_certificate": {
            "client_certificate_authorities_path": path("authority.pem"),
        }},
    }))
    .expect("an endpoint");
    let runtime = tokio::runtime::Runtime::new().expect("an event loop");
    let inside = runtime.enter();
    let listener = endpoint.listen().expect("a listener").remove(0);
    let address = listener.local_address().replace("127.0.0.1", "localhost");
    let upstream = daemon::connect(&farm.endpoint().parse().expect("an address"));
    let upstream = upstream.expect("a channel");
    let front = Router::new().fallback(move |request| pass(upstream.clone(), request));
    let served = daemon::serve(listener, Routes::from(front), Diagnostics::default());
    runtime.spawn(served);
    drop(inside);

    let remote = format!("grpcs://{address}");
    let certificate = [path("authority.pem"), path("me.pem"), path("me.key")];
    let [authorities, certificate, key] = certificate.each_ref().map(String::as_str);
    let trusting = ["--remote", &remote, "--tls-authorities", authorities];
    let known = [
        &trusting[..],
        &["--tls-certificate", certificate, "--tls-key", key],
    ]
    .concat();
    let token = path("token");
    let welcome = [&known[..], &["--token", &token]].concat();

    let run = [
        &["run", "--json"],
        &welcome[..],
        &["--", "/bin/echo", "by TLS"],
    ]
    .concat();
    let ran = desk.told(run);
    assert_eq!(ran["stdout"], "by TLS\n", "{ran:#}");
    // Every call carries it, those for blobs and results too.
    let action = ran["action"].as_str().expect("a digest");
    let told = desk.told([&["action", "--json", action], &welcome[..]].concat());
    assert_eq!(told["outcome"]["stdout"], "by TLS\n", "{told:#}");

    let wrong = path("wrong");
    let wrong = [&known[..], &["--token", &wrong]].concat();
    let bare = [&trusting[..], &["--token", &token]].concat();
    let clear = ["--remote", farm.endpoint(), "--token", &token];
    for (options, expected) in [
        (&known[..], "the token is wrong"),
        (&wrong, "the token is wrong"),
        (&bare, "ertificate"),
        (&clear, "needs tls"),
    ] {
        let output = desk.run([&["run"], options, &["--", "/bin/true"]].concat());
        assert_eq!(output.status.code(), Some(125), "{options:?}: {output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(expected), "{options:?}: {error}");
    }
    runtime.shutdown_background();
    farm.stop();
    desk.leave();
}
