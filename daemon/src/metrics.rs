//! The process's metrics recorder. Components use the `metrics` macros; `/metrics` renders them.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the recorder once per process and sets the build-info gauge.
pub fn init() {
    handle();
}

/// Everything recorded, in Prometheus' text format; empty when another recorder had been installed before.
pub fn render() -> String {
    handle().map(PrometheusHandle::render).unwrap_or_default()
}

/// Tidies histograms; to be called every few seconds.
pub(crate) fn upkeep() {
    if let Some(handle) = handle() {
        handle.run_upkeep();
    }
}

fn handle() -> Option<&'static PrometheusHandle> {
    RECORDER
        .get_or_init(|| {
            let handle = PrometheusBuilder::new().install_recorder().ok()?;
            metrics::describe_gauge!(
                "dialtone_build_info",
                "1; the label names the version that runs"
            );
            metrics::gauge!("dialtone_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            Some(handle)
        })
        .as_ref()
}
