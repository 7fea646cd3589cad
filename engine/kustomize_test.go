package main

import (
	"context"
	"testing"
)

var smallApp = map[string]string{
	"app/kustomization.yaml": "namespace: demo\nresources: [ns.yaml, d.yaml, s.yaml, c.yaml]\nimages: [{name: nginx, newTag: '2'}]\n",
	"app/ns.yaml":            "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}\n",
	"app/c.yaml":             configMap("c") + "data: {a: b, c: d}\n",
	"app/s.yaml":             "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{port: 80, targetPort: 8080}]\n",
	"app/d.yaml":             "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, labels: {app: web}}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - name: web\n        image: nginx:1\n        ports: [{containerPort: 8080}]\n        resources: {limits: {cpu: 100m, memory: 64Mi}}\n",
}

func BenchmarkSmallApp(b *testing.B) {
	e := &engine{}
	request := buildRequest{Tree: shared(b, smallApp), Path: "app"}
	for b.Loop() {
		if _, _, err := e.build(context.Background(), &request, nil); err != nil {
			b.Fatal(err)
		}
	}
}
