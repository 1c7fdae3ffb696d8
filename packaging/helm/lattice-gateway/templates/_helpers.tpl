{{- define "lattice-gateway.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "lattice-gateway.selector" -}}
app.kubernetes.io/name: lattice-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lattice-gateway.labels" -}}
{{ include "lattice-gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "lattice-gateway.configSecret" -}}
{{- .Values.existingConfigSecret | default (include "lattice-gateway.name" .) -}}
{{- end -}}
