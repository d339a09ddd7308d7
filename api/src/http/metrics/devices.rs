//! Figures of devices. Which kinds there are and what they count is theirs: names, help and values come from them.

use super::text::Text;
use std::collections::BTreeMap;
use std::fmt::Display;
use vmm::{DeviceView, Figure, FigureKind, Figures};

/// All of them, family by family. A kind that the guest has no device of has no figures.
pub fn all(text: &mut Text, devices: &[DeviceView]) {
    let mut families: BTreeMap<(&str, &str), Vec<(&DeviceView, Figure)>> = BTreeMap::new();
    for device in devices {
        for figure in device.counters.figures().into_iter().chain(device.figures.iter().copied()) {
            families.entry((figure.subsystem, figure.name)).or_default().push((device, figure));
        }
    }
    for lines in families.values() {
        let Some((_, first)) = lines.first() else { continue };
        let (name, kind) = match first.kind {
            FigureKind::Counter => (format!("numavisor_{}_{}_total", first.subsystem, first.name), "counter"),
            FigureKind::Gauge => (format!("numavisor_{}_{}", first.subsystem, first.name), "gauge"),
        };
        text.family(&name, kind, first.help);
        for (device, figure) in lines {
            let mut labels: Vec<(&str, &dyn Display)> =
                vec![("device", &device.name), ("vnode", &device.vnode)];
            labels.extend(figure.state.as_ref().map(|(label, state)| (*label, state as &dyn Display)));
            text.line(&name, &labels, figure.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Text, all};
    use resources::VnodeId;
    use std::sync::Arc;
    use vmm::{DeviceView, Figure, FigureKind, VirtioCounters};

    /// Nothing outside of this test knows of lamps.
    fn lamp(name: &str, vnode: u32, switches: u64, colour: &str) -> DeviceView {
        let help = "Times that the guest switched the lamp.";
        let mut figures = vec![Figure::new("lamp", "switches", help, (FigureKind::Counter, switches))];
        let states = (&["red", "green"][..], colour);
        figures.extend(Figure::states("lamp", "colour", "1 for the colour of the lamp.", "colour", states));
        let counters = Arc::new(VirtioCounters::default());
        DeviceView { name: name.to_owned(), vnode: VnodeId(vnode), counters, figures }
    }

    #[test]
    fn a_device_of_a_new_kind_has_metrics() {
        let devices = [lamp("lamp0", 0, 7, "red"), lamp("lamp1", 1, 0, "green")];
        devices[1].counters.resets.add(3);
        let mut text = Text::default();
        all(&mut text, &devices);
        let text = text.finish();
        let expected = "# HELP numavisor_lamp_colour 1 for the colour of the lamp.\n\
                        # TYPE numavisor_lamp_colour gauge\n\
                        numavisor_lamp_colour{device=\"lamp0\",vnode=\"0\",colour=\"red\"} 1\n\
                        numavisor_lamp_colour{device=\"lamp0\",vnode=\"0\",colour=\"green\"} 0\n\
                        numavisor_lamp_colour{device=\"lamp1\",vnode=\"1\",colour=\"red\"} 0\n\
                        numavisor_lamp_colour{device=\"lamp1\",vnode=\"1\",colour=\"green\"} 1\n\
                        # HELP numavisor_lamp_switches_total Times that the guest switched the lamp.\n\
                        # TYPE numavisor_lamp_switches_total counter\n\
                        numavisor_lamp_switches_total{device=\"lamp0\",vnode=\"0\"} 7\n\
                        numavisor_lamp_switches_total{device=\"lamp1\",vnode=\"1\"} 0\n";
        assert!(text.ends_with(expected), "{text}");
        let resets = "# HELP numavisor_device_resets_total Times that the driver reset the device.\n\
                      # TYPE numavisor_device_resets_total counter\n\
                      numavisor_device_resets_total{device=\"lamp0\",vnode=\"0\"} 0\n\
                      numavisor_device_resets_total{device=\"lamp1\",vnode=\"1\"} 3\n";
        assert!(text.contains(resets), "{text}");
        assert_eq!(text.matches("# TYPE").count(), 10, "{text}");
    }
}
