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
}
