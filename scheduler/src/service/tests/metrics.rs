//! What Prometheus reads of the queue.

use daemon::Metrics;

use super::*;

#[tokio::test]
async fn the_way_of_an_action_is_counted_under_buildbarns_names() {
    let farm = Farm::start(Settings::default()).await;
    let metrics = Metrics::default();
    farm.dispatcher.register(&metrics);
    let action = farm.action("x");
    let mut client = farm.execute(action).await;
    client.stage().await;
    let mut twin = farm.execute(action).await;
    twin.stage().await;
    let queue = "instance_name_prefix=\"\",platform=\"{\\\"properties\\\":\
                 [{\\\"name\\\":\\\"os\\\",\\\"value\\\":\\\"linux\\\"}]}\",size_class=\"0\"";
    let has = |name: &str, labels: &str, value: &str| {
        let line = format!("{name}{{{queue}{labels}}} {value}");
        let text = metrics.to_text();
        assert!(text.contains(&line), "{line}\nis not in\n{text}");
    };
    let ours = |name: &str| format!("buildbarn_builder_in_memory_build_queue_{name}");
    has(
        &ours("in_flight_deduplications_total"),
        ",outcome=\"New\"",
        "1\n",
    );
    has(
        &ours("in_flight_deduplications_total"),
        ",outcome=\"SameInvocation\"",
        "1\n",
    );
    has(
        &ours("tasks_scheduled_total"),
        ",assignment=\"Queue\",do_not_cache=\"false\"",
        "1\n",
    );
    has("hayloft_scheduler_tasks_queued", "", "1.0\n");
    has("hayloft_scheduler_queue_age_seconds", "", "");

    let mut worker = farm.worker("w");
    worker.take().await;
    has(&ours("workers_created_total"), "", "1\n");
    has(&ours("tasks_queued_duration_seconds_count"), "", "1\n");
    has("hayloft_scheduler_workers_executing", "", "1.0\n");
    worker.complete(action, 0).await;
    client.response().await;
    has(
        &ours("tasks_executing_duration_seconds_count"),
        ",result=\"Success\",grpc_code=\"OK\"",
        "1\n",
    );
    has(
        &ours("tasks_executing_retries_sum"),
        ",result=\"Success\",grpc_code=\"OK\"",
        "0.0\n",
    );
    let level = |depth: usize| format!(",depth=\"{depth}\"");
    for (what, depth, count) in [
        ("created", 1, "1\n"),
        ("activated", 0, "1\n"),
        ("activated", 1, "1\n"),
        ("deactivated", 1, "1\n"),
        // The worker is still counted among those who worked for it.
        ("removed", 1, "0\n"),
    ] {
        let name = ours(&format!("invocations_{what}_total"));
        has(&name, &level(depth), count);
    }
    let stickiness = ours("worker_invocation_stickiness_retained_sum");
    has(&stickiness, "", "0.0\n");
    has("hayloft_scheduler_fairness_spread_workers", "", "0.0\n");
    let all = Default::default();
    farm.dispatcher.terminate_workers(&all).await.unwrap();
    has(&ours("workers_terminating_total"), "", "1\n");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_operation_and_what_was_adopted_are_counted() {
    let settings = Settings {
        recovery: Some(crate::queue::After {
            longest: Duration::from_secs(60),
            workers: None,
        }),
        ..Settings::default()
    };
    let farm = Farm::start(settings).await;
    let metrics = Metrics::default();
    farm.dispatcher.register(&metrics);
    let action = farm.action("x");
    let mut worker = farm.worker("w");
    let told = proto::wire::worker_extension::Execution {
        queued_timestamp: Some(proto::messages::timestamp(SystemTime::now())),
        operation_names: vec!["00000000-0000-4000-8000-000000000001".into()],
        ..Default::default()
    };
    worker.tells(&told);
    let started = current_state::executing::ExecutionState::Started(());
    worker.report(action, started).await;
    let text = metrics.to_text();
    let counted = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("{name} is not in\n{text}"))
    };
    assert_eq!(counted(&text, "hayloft_scheduler_tasks_adopted_total"), 1.0);
    worker.complete(action, 0).await;
    // Nobody asks for it.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let text = metrics.to_text();
    let name = "buildbarn_builder_in_memory_build_queue_tasks_completed_duration_seconds";
    assert_eq!(counted(&text, &format!("{name}_count")), 1.0);
    assert!(counted(&text, &format!("{name}_sum")) >= 59.0);
}
