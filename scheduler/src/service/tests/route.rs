//! Action routers, as configured.

use proto::wire::protobuf::Any;
use proto::wire::remoteactionrouter::action_router_server::{ActionRouter, ActionRouterServer};
use proto::wire::remoteactionrouter::{RouteActionRequest, RouteActionResponse};
use proto::wire::rev2::RequestMetadata;
use tonic::service::Routes;
use tonic::{Code, Request, Response};

use super::*;
use crate::Error;
use crate::config::Config;
use crate::service::invocation::Caller;
use crate::service::route::Route;

fn router(rest: &str) -> Result<Router, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler.toml");
    let config = format!(
        "client_grpc_servers = []\nworker_grpc_servers = []\n\
         content_addressable_storage = 'unix:/nowhere'\n{rest}"
    );
    std::fs::write(&path, config).unwrap();
    let config: Config = daemon::config::load(&path).unwrap();
    Router::new(&config)
}

fn caller(instance: &str) -> Caller {
    Caller {
        metadata: Some(RequestMetadata {
            tool_invocation_id: "tool".into(),
            ..Default::default()
        }),
        principal: "somebody".into(),
        instance: InstanceName::new(instance).unwrap(),
    }
}

async fn route(router: &Router, instance: &str, os: &str) -> Result<Route, Error> {
    let platform = PlatformKey::from_wire(Some(&platform(os))).unwrap();
    let action = action_of("x");
    let digest = digest_of(b"x");
    router
        .route(digest, action, platform, &caller(instance))
        .await
}

#[tokio::test]
async fn without_a_router_the_actions_platform_and_the_common_rules_hold() {
    let router = router("maximum_execution_timeout = '3h'").unwrap();
    let route = route(&router, "main", "linux").await.unwrap();
    assert_eq!(route.platform.to_string(), "{os=linux}");
    assert_eq!(route.invocation.len(), 2);
    assert_eq!(route.timeouts.maximum.as_secs(), 3 * 3600);
}

#[tokio::test]
async fn rules_may_rewrite_the_platform_and_say_whose_an_action_is() {
    let router = router(
        "[action_router.simple]
        invocation_key_extractors = ['authentication_metadata', 'instance_name', 'tool_invocation_id']
        default_execution_timeout = '5s'
        [action_router.simple.platform_key_extractor]
        static = [{name = 'os', value = 'plan9'}]",
    );
    let route = route(&router.unwrap(), "main", "linux").await.unwrap();
    assert_eq!(route.platform.to_string(), "{os=plan9}");
    assert_eq!(route.timeouts.default.as_secs(), 5);
    let keys = route.invocation.iter().map(|key| Any::from(key).value);
    let keys: Vec<_> = keys
        .map(|key| String::from_utf8_lossy(&key).into_owned())
        .collect();
    assert_eq!(keys.len(), 3);
    for (key, text) in keys.iter().zip(["somebody", "main", "tool"]) {
        assert!(key.ends_with(text), "{key:?}");
    }
}

#[tokio::test]
async fn of_several_routers_the_longest_prefix_and_then_the_platform_decides() {
    let backend = |prefix: &str, os: &str, seconds: u32| {
        let platform = if os.is_empty() {
            String::new()
        } else {
            format!("platform = [{{name = 'os', value = '{os}'}}]\n")
        };
        format!(
            "[[action_router.demultiplexing.backends]]\ninstance_name_prefix = '{prefix}'\n{platform}\
             [action_router.demultiplexing.backends.action_router.simple]\n\
             default_execution_timeout = '{seconds}s'\n"
        )
    };
    let config = [
        "[action_router.demultiplexing.default_action_router.simple]\n\
         default_execution_timeout = '1s'\n"
            .to_string(),
        backend("a", "", 2),
        backend("a", "linux", 3),
        backend("a/b", "", 4),
    ];
    let router = router(&config.concat()).unwrap();
    for (instance, os, seconds) in [
        ("", "linux", 1),
        ("ab", "linux", 1),
        ("a", "plan9", 2),
        ("a/c", "linux", 3),
        ("a/b/c", "linux", 4),
    ] {
        let route = route(&router, instance, os).await.unwrap();
        assert_eq!(route.timeouts.default.as_secs(), seconds, "{instance} {os}");
    }
}

#[test]
fn a_router_that_contradicts_itself_is_refused_by_name() {
    let refused = router("[action_router.simple]\ndefault_execution_timeout = '9h'").unwrap_err();
    assert!(refused.to_string().contains("default_execution_timeout"));
    let refused = router(
        "[action_router.demultiplexing]\ndefault_action_router = {simple = {}}\n\
         backends = [{instance_name_prefix = 'a//b', action_router = {simple = {}}}]",
    );
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("backends.instance_name_prefix"),
        "{refused}"
    );
}

/// Answers according to the instance name.
struct Elsewhere;

#[tonic::async_trait]
impl ActionRouter for Elsewhere {
    async fn route_action(
        &self,
        request: Request<RouteActionRequest>,
    ) -> Result<Response<RouteActionResponse>, Status> {
        let request = request.into_inner();
        let metadata = request.request_metadata.unwrap();
        let key = Any {
            type_url: "key".into(),
            value: metadata.tool_invocation_id.into_bytes(),
        };
        let action = Action {
            platform: Some(platform("remote")),
            ..request.action.unwrap()
        };
        let bare = Action {
            platform: None,
            ..action.clone()
        };
        let (action, invocation_keys) = match &*request.instance_name {
            "denied" => return Err(Status::permission_denied("not you")),
            "no-action" => (None, vec![key]),
            "no-platform" => (Some(bare), vec![key]),
            "no-keys" => (Some(action), vec![]),
            _ => (Some(action), vec![key]),
        };
        Ok(Response::new(RouteActionResponse {
            action,
            invocation_keys,
        }))
    }
}

#[tokio::test]
async fn another_program_may_be_asked_and_its_word_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::Unix(folder.path().join("router"));
    let listener = daemon::listen(&address).await.unwrap();
    let routes = Routes::new(ActionRouterServer::new(Elsewhere));
    let diagnostics = Diagnostics::new(&Shutdown::new());
    tokio::spawn(daemon::serve(listener, routes, diagnostics));
    let router = router(&format!("action_router = {{remote = '{address}'}}")).unwrap();

    let routed = route(&router, "main", "linux").await.unwrap();
    assert_eq!(routed.platform.to_string(), "{os=remote}");
    assert_eq!(Any::from(&routed.invocation[0]).value, b"tool");
    for (instance, code, word) in [
        ("denied", Code::PermissionDenied, "not you"),
        ("no-action", Code::Internal, "action is missing"),
        ("no-platform", Code::Internal, "no platform"),
        ("no-keys", Code::Internal, "no invocation keys"),
    ] {
        let status = Status::from(route(&router, instance, "linux").await.unwrap_err());
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains("action router"), "{status:?}");
        assert!(status.message().contains(word), "{status:?}");
    }
}
