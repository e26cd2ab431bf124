{{/* Labels of everything in the release; call with (dict "root" $ "name" "naru-gateway"). */}}
{{- define "naru.labels" -}}
{{ include "naru.selector" . }}
app.kubernetes.io/part-of: naru
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- end }}

{{/* What a Deployment and its Service find pods by; it never changes. */}}
{{- define "naru.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* An image's full name; call with (dict "root" $ "image" "operator"). */}}
{{- define "naru.image" -}}
{{- $image := .root.Values.image -}}
{{- $name := printf "%s/naru/%s:%s" $image.registry .image ($image.tag | default .root.Chart.AppVersion) -}}
{{- with index $image.digests .image -}}{{ $name }}@{{ . }}{{- else -}}{{ $name }}{{- end -}}
{{- end }}

{{/* The restricted pod security standard. */}}
{{- define "naru.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "naru.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What clients speak with the gateways, and the port of the Service for it. */}}
{{- define "naru.scheme" -}}
{{ ternary "https" "http" (ne .Values.gateway.tls.secretName "") }}
{{- end }}

{{- define "naru.port" -}}
{{ .Values.gateway.service.port | default (ternary 443 80 (ne .Values.gateway.tls.secretName "")) }}
{{- end }}

{{/* Where and how a pod runs, as the values say; call with .Values.operator or .Values.gateway. */}}
{{- define "naru.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "naru.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Probes on the plain port for operations. */}}
{{- define "naru.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 2
  timeoutSeconds: 5
{{- end }}
