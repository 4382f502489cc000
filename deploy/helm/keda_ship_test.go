//go:build ship

package helm

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gitlab-runner-fleet-exporter/test/rig"
)

// keda is the module with the definition of ScaledObject.
const keda = "github.com/kedacore/keda/v2@v2.17.2"

// TestShipScaledObjectIsValid lets a real API server validate the ScaledObject by KEDA's
// own definition, and refuse what it does not know.
func TestShipScaledObjectIsValid(t *testing.T) {
	c := startCluster(t)
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(rig.Run(t, "go", "mod", "download", "-json", keda)), &module); err != nil {
		t.Fatal(err)
	}
	c.apply(t, string(read(t, filepath.Join(module.Dir, "config/crd/bases/keda.sh_scaledobjects.yaml"))))
	c.kubectl(t, "", "wait", "--for=condition=Established", "crd/scaledobjects.keda.sh", "--timeout=60s")
	object := string(read(t, "../keda/scaledobject.yaml"))
	c.kubectl(t, object, "apply", "--server-side", "--validate=strict", "--namespace", "default", "-f", "-")
	for _, spoil := range []struct{ from, to string }{
		{"currentReplicasIfHigher", "hold"},
		{"failureThreshold: 3", "failures: 3"},
		{"triggers:", "trigger:"},
	} {
		wrong := strings.Replace(object, spoil.from, spoil.to, 1)
		cmd := exec.CommandContext(t.Context(), tool(t, "kubectl"), "--kubeconfig", c.kubeconfig, "apply", "--server-side", "--dry-run=server", "--validate=strict", "--namespace", "default", "-f", "-")
		cmd.Stdin = strings.NewReader(wrong)
		rig.Refused(t, cmd)
	}
}
